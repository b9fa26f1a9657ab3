terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

# Credentials and region come from the standard chain (AWS_PROFILE, AWS_REGION, a role …), nothing of them is written here.
# AWS_ENDPOINT_URL sends all of it to a stand-in instead.
provider "aws" {
  region = var.region

  # A stand-in on this machine knows no virtual hosts of buckets; on AWS both spellings are the same bucket.
  s3_use_path_style = true

  # Glue's ARNs hold the account: it has to be asked for, also where a stand-in makes it up.
  skip_requesting_account_id = false
  skip_metadata_api_check    = true

  default_tags {
    tags = var.tags
  }
}

data "aws_caller_identity" "this" {}

data "aws_partition" "this" {}

data "aws_region" "this" {}

locals {
  account   = data.aws_caller_identity.this.account_id
  partition = data.aws_partition.this.partition
  region    = data.aws_region.this.name

  # Of services whose resources have ARNs without a Terraform attribute for them.
  glue = "arn:${local.partition}:glue:${local.region}:${local.account}"
}
