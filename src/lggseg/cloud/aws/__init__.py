"""AWS: the only folder that imports boto3 or sagemaker, and only when it is used."""
