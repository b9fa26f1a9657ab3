# The data lake's bucket, and one for results of queries. Private, encrypted, TLS only.

locals {
  buckets = {
    data    = aws_s3_bucket.data
    results = aws_s3_bucket.results
  }
}

resource "aws_s3_bucket" "data" {
  bucket        = var.bucket_name
  force_destroy = !var.protect
}

resource "aws_s3_bucket" "results" {
  bucket        = "${var.bucket_name}-query-results"
  force_destroy = true
}

resource "aws_s3_bucket_public_access_block" "private" {
  for_each = local.buckets

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "owned" {
  for_each = local.buckets

  bucket = each.value.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "encrypted" {
  for_each = local.buckets

  bucket = each.value.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

# No versioning: objects are written once under names of their own, and what must go by law is gone when it is deleted.

resource "aws_s3_bucket_lifecycle_configuration" "data" {
  bucket = aws_s3_bucket.data.id

  rule {
    id     = "errors-are-kept-shortly"
    status = "Enabled"

    filter {
      prefix = var.error_prefix
    }

    expiration {
      days = var.error_retention_days
    }
  }

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  dynamic "rule" {
    for_each = var.infrequent_access_days > 0 ? [var.infrequent_access_days] : []

    content {
      id     = "old-data-is-cheap"
      status = "Enabled"

      # Objects that are too small to gain from it stay where they are.
      filter {
        object_size_greater_than = 131072
      }

      transition {
        days          = rule.value
        storage_class = "STANDARD_IA"
      }
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "results" {
  bucket = aws_s3_bucket.results.id

  rule {
    id     = "results-are-kept-shortly"
    status = "Enabled"

    filter {}

    expiration {
      days = var.results_retention_days
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

data "aws_iam_policy_document" "bucket" {
  for_each = local.buckets

  statement {
    sid       = "OverTlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.arn, "${each.value.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  # Failed records are the originals, un-redacted. Whoever may read the lake may not read these.
  dynamic "statement" {
    for_each = each.key == "data" ? [1] : []

    content {
      sid       = "ErrorsForFew"
      effect    = "Deny"
      actions   = ["s3:GetObject"]
      resources = ["${each.value.arn}/${var.error_prefix}*"]

      principals {
        type        = "*"
        identifiers = ["*"]
      }

      condition {
        test     = "ArnNotLike"
        variable = "aws:PrincipalArn"
        values   = concat(["arn:${local.partition}:iam::${local.account}:role/nobody"], var.error_reader_arns)
      }
    }
  }
}

resource "aws_s3_bucket_policy" "guarded" {
  for_each = local.buckets

  bucket = each.value.id
  policy = data.aws_iam_policy_document.bucket[each.key].json

  depends_on = [aws_s3_bucket_public_access_block.private]
}
