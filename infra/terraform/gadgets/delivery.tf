# Kinesis → Firehose with the function → S3; with invoked_by = kinesis the function puts into it instead.

locals {
  # MiniStack's Firehose makes an object for each record and loses what the function refuses. Bound to no stream that it
  # knows it stays quiet, and catchment aws firehose --from-firehose does by the same description what AWS does.
  delivered_stream_arn = var.stand_in ? replace(aws_kinesis_stream.changes.arn, ":${local.account}:", ":000000000000:") : aws_kinesis_stream.changes.arn
}

resource "aws_cloudwatch_log_group" "delivery" {
  name              = "/aws/kinesisfirehose/${var.delivery_name}"
  retention_in_days = 30
}

resource "aws_cloudwatch_log_stream" "delivery" {
  name           = "S3Delivery"
  log_group_name = aws_cloudwatch_log_group.delivery.name
}

resource "aws_kinesis_firehose_delivery_stream" "sales" {
  name        = var.delivery_name
  destination = "extended_s3"

  dynamic "kinesis_source_configuration" {
    for_each = local.by_kinesis ? [] : [local.delivered_stream_arn]

    content {
      kinesis_stream_arn = kinesis_source_configuration.value
      role_arn           = aws_iam_role.delivery.arn
    }
  }

  extended_s3_configuration {
    role_arn            = aws_iam_role.delivery.arn
    bucket_arn          = aws_s3_bucket.data.arn
    prefix              = "!{timestamp:yyyy}/!{timestamp:MM}/!{timestamp:dd}/!{timestamp:HH}/"
    error_output_prefix = "${var.error_prefix}!{firehose:error-output-type}/!{timestamp:yyyy}/!{timestamp:MM}/!{timestamp:dd}/!{timestamp:HH}/"
    buffering_interval  = var.delivery_window_seconds
    buffering_size      = var.delivery_size_mib
    compression_format  = var.compression
    custom_time_zone    = "UTC"
    kms_key_arn         = var.kms_key_arn

    processing_configuration {
      # Left out, it is stored as false and nothing is transformed.
      enabled = !local.by_kinesis

      dynamic "processors" {
        for_each = local.by_kinesis ? [] : ["${aws_lambda_function.transform.arn}:$LATEST"]

        content {
          type = "Lambda"

          parameters {
            parameter_name  = "LambdaArn"
            parameter_value = processors.value
          }

          # A clean record is smaller than what came in, but base64 and failed originals count: 6 MB is the limit each way.
          parameters {
            parameter_name  = "BufferSizeInMBs"
            parameter_value = "2"
          }

          parameters {
            parameter_name  = "BufferIntervalInSeconds"
            parameter_value = tostring(var.transform_window_seconds)
          }
        }
      }
    }

    cloudwatch_logging_options {
      enabled         = true
      log_group_name  = aws_cloudwatch_log_group.delivery.name
      log_stream_name = aws_cloudwatch_log_stream.delivery.name
    }
  }

  depends_on = [aws_iam_role_policy.delivery]
}

data "aws_iam_policy_document" "assume_firehose" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["firehose.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

data "aws_iam_policy_document" "delivery" {
  dynamic "statement" {
    for_each = local.by_kinesis ? [] : [1]

    content {
      sid = "ReadChanges"
      actions = [
        "kinesis:DescribeStream",
        "kinesis:GetRecords",
        "kinesis:GetShardIterator",
        "kinesis:ListShards",
      ]
      resources = [aws_kinesis_stream.changes.arn]
    }
  }

  dynamic "statement" {
    for_each = local.by_kinesis ? [] : [1]

    content {
      sid       = "Transform"
      actions   = ["lambda:GetFunctionConfiguration", "lambda:InvokeFunction"]
      resources = [aws_lambda_function.transform.arn, "${aws_lambda_function.transform.arn}:*"]
    }
  }

  statement {
    sid       = "FindBucket"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.data.arn]
  }

  statement {
    sid       = "Deliver"
    actions   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.data.arn}/*"]
  }

  statement {
    sid       = "Log"
    actions   = ["logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.delivery.arn}:log-stream:${aws_cloudwatch_log_stream.delivery.name}"]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Encrypt"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role" "delivery" {
  name               = var.delivery_name
  description        = "Firehose ${var.delivery_name}."
  assume_role_policy = data.aws_iam_policy_document.assume_firehose.json
}

resource "aws_iam_role_policy" "delivery" {
  name   = "deliver"
  role   = aws_iam_role.delivery.id
  policy = data.aws_iam_policy_document.delivery.json
}
