"""A stand-in for Amazon: one process that embeds moto, mends what moto does otherwise than EC2, and breaks on demand.

Clients of any kind reach it over HTTP by `AWS_ENDPOINT_URL`, so that boto3, obstore, DVC and the
agent all meet the same cloud. `wire` receives every request, records it and applies the faults
that a test asked for; `repairs` holds what moto gets wrong, one module for each subject;
`machines` moves instances from pending to terminated; `control` is the door for tests.

"AWS does X" in this package is from Amazon's documentation and experience, not from asking Amazon.
"""
