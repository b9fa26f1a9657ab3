# The function: a few kilobytes, made by python -m catchment.aws.bundle. Firehose invokes it; or, with invoked_by = kinesis, an
# event source mapping does, and the function puts clean records into Firehose and poison records under the error prefix.

locals {
  by_kinesis   = var.invoked_by == "kinesis"
  delivery_arn = "arn:${local.partition}:firehose:${local.region}:${local.account}:deliverystream/${var.delivery_name}"

  function_variables = merge(
    { TIMESTAMP_ATTRIBUTES = join(",", var.timestamp_attributes) },
    local.by_kinesis ? {
      DELIVERY_STREAM = var.delivery_name
      ERROR_BUCKET    = var.bucket_name
      ERROR_PREFIX    = "${var.error_prefix}processing-failed/"
    } : {},
  )
}

resource "aws_cloudwatch_log_group" "transform" {
  name              = "/aws/lambda/${var.function_name}"
  retention_in_days = 30
}

resource "aws_lambda_function" "transform" {
  function_name    = var.function_name
  description      = "DynamoDB change records to clean JSON: catchment.aws.firehose_transform."
  role             = aws_iam_role.transform.arn
  runtime          = "python3.13"
  architectures    = ["arm64"]
  handler          = local.by_kinesis ? "catchment.aws.kinesis_transform.handler" : "catchment.aws.firehose_transform.handler"
  filename         = var.lambda_zip
  source_code_hash = filebase64sha256(var.lambda_zip)
  memory_size      = var.lambda_memory_mb
  timeout          = 120 # Firehose waits five minutes; a batch of 6 MB takes well under a second

  environment {
    variables = local.function_variables
  }

  depends_on = [aws_cloudwatch_log_group.transform, aws_iam_role_policy.transform]
}

data "aws_iam_policy_document" "assume_lambda" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

# Given records by Kinesis: in order for each shard, and again from the first one that could not be put.
resource "aws_lambda_event_source_mapping" "changes" {
  count = local.by_kinesis ? 1 : 0

  event_source_arn                   = aws_kinesis_stream.changes.arn
  function_name                      = aws_lambda_function.transform.arn
  starting_position                  = "TRIM_HORIZON"
  batch_size                         = 500
  maximum_batching_window_in_seconds = var.transform_window_seconds
  bisect_batch_on_function_error     = true
  function_response_types            = ["ReportBatchItemFailures"]
}

# Invoked by Firehose it reads nothing and writes nothing but its log, which holds counts and record ids, never values.
data "aws_iam_policy_document" "transform" {
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.transform.arn}:*"]
  }

  dynamic "statement" {
    for_each = local.by_kinesis ? [1] : []

    content {
      sid = "ReadChanges"
      actions = [
        "kinesis:DescribeStream",
        "kinesis:DescribeStreamSummary",
        "kinesis:GetRecords",
        "kinesis:GetShardIterator",
        "kinesis:ListShards",
      ]
      resources = [aws_kinesis_stream.changes.arn]
    }
  }

  dynamic "statement" {
    for_each = local.by_kinesis ? [1] : []

    content {
      sid       = "Put"
      actions   = ["firehose:PutRecordBatch"]
      resources = [local.delivery_arn]
    }
  }

  dynamic "statement" {
    for_each = local.by_kinesis ? [1] : []

    content {
      sid       = "SetPoisonAside"
      actions   = ["s3:PutObject"]
      resources = ["${aws_s3_bucket.data.arn}/${var.error_prefix}*"]
    }
  }

  dynamic "statement" {
    for_each = local.by_kinesis && var.kms_key_arn != null ? [1] : []

    content {
      sid       = "Encrypt"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
    }
  }
}

resource "aws_iam_role" "transform" {
  name               = var.function_name
  description        = "The function ${var.function_name}."
  assume_role_policy = data.aws_iam_policy_document.assume_lambda.json
}

resource "aws_iam_role_policy" "transform" {
  name   = "log"
  role   = aws_iam_role.transform.id
  policy = data.aws_iam_policy_document.transform.json
}
