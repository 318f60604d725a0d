"""Who may do what: signatures checked, and policies enforced when a test asks for it.

Moto's own enforcement does not know conditions, and few resources. Here each call becomes the
rights that it needs (`rights`), weighed by the caller's policies (`rules`), and every decision is kept.
"""
