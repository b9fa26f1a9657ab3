"""What AWS runs for us, on this machine: a pipe, a Firehose and an event source mapping, over boto3.

They play the managed parts that the stand-in lacks, against whatever `AWS_ENDPOINT_URL` says. On AWS the real ones do
this work, and none of this is deployed.
"""
