"""What runs on a machine, and on this host for the local provider.

Every module here but `pack` travels, as one archive, to machines that have nothing but a
Python from 3.8 on. So they import the standard library and each other, and read and
write the records of `sojourn.records` as plain JSON.
"""
