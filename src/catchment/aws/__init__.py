"""What runs on AWS: the handlers of our Lambda functions, and their zip file. Importing it loads nothing else."""
