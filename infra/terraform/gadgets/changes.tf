# DynamoDB stream → EventBridge Pipe → Kinesis. The pipe keeps each record's sequence number, by which the latest version
# of an order is found; DynamoDB's own Kinesis destination does not send it.

resource "aws_kinesis_stream" "changes" {
  name             = var.stream_name
  shard_count      = var.shards > 0 ? var.shards : null
  retention_period = var.stream_retention_hours
  encryption_type  = "KMS"
  kms_key_id       = "alias/aws/kinesis"

  stream_mode_details {
    stream_mode = var.shards > 0 ? "PROVISIONED" : "ON_DEMAND"
  }
}

# What the pipe could not carry: where in the stream it is, not the data, which the stream still has for up to 24 hours.
resource "aws_sqs_queue" "not_carried" {
  name                      = "${var.pipe_name}-not-carried"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_pipes_pipe" "changes" {
  name          = var.pipe_name
  description   = "Every change of ${var.table_name} to ${var.stream_name}, in order for each order."
  role_arn      = aws_iam_role.pipe.arn
  source        = aws_dynamodb_table.orders.stream_arn
  target        = aws_kinesis_stream.changes.arn
  desired_state = "RUNNING"

  source_parameters {
    dynamodb_stream_parameters {
      starting_position                  = "TRIM_HORIZON"
      batch_size                         = 500
      maximum_batching_window_in_seconds = var.pipe_window_seconds
      maximum_retry_attempts             = var.pipe_retries
      maximum_record_age_in_seconds      = -1
      on_partial_batch_item_failure      = "AUTOMATIC_BISECT"

      dead_letter_config {
        arn = aws_sqs_queue.not_carried.arn
      }
    }
  }

  target_parameters {
    kinesis_stream_parameters {
      partition_key = "$.dynamodb.Keys.orderid.S"
    }
  }

  # Without the right to read, a pipe is made and fails for ever.
  depends_on = [aws_iam_role_policy.pipe]
}

data "aws_iam_policy_document" "assume_pipe" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["pipes.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = ["arn:${local.partition}:pipes:${local.region}:${local.account}:pipe/${var.pipe_name}"]
    }
  }
}

data "aws_iam_policy_document" "pipe" {
  statement {
    sid = "ReadChanges"
    actions = [
      "dynamodb:DescribeStream",
      "dynamodb:GetRecords",
      "dynamodb:GetShardIterator",
      "dynamodb:ListStreams",
    ]
    # Of every stream the table ever has: disabled and enabled again it has a new one.
    resources = ["${aws_dynamodb_table.orders.arn}/stream/*"]
  }

  statement {
    sid       = "PutChanges"
    actions   = ["kinesis:PutRecord", "kinesis:PutRecords"]
    resources = [aws_kinesis_stream.changes.arn]
  }

  statement {
    sid       = "SayWhatWasNotCarried"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.not_carried.arn]
  }
}

resource "aws_iam_role" "pipe" {
  name               = var.pipe_name
  description        = "The pipe from ${var.table_name} to ${var.stream_name}."
  assume_role_policy = data.aws_iam_policy_document.assume_pipe.json
}

resource "aws_iam_role_policy" "pipe" {
  name   = "carry-changes"
  role   = aws_iam_role.pipe.id
  policy = data.aws_iam_policy_document.pipe.json
}
