# What to be woken for. Each says what it means and what to do.

locals {
  alarms = var.alarms ? {
    changes-not-read = {
      description = "Delivery is more than two minutes behind ${var.stream_name}. Look at Firehose and the function; changes are lost after ${var.stream_retention_hours} hours."
      namespace   = "AWS/Kinesis"
      metric      = "GetRecords.IteratorAgeMilliseconds"
      dimensions  = { StreamName = var.stream_name }
      statistic   = "Maximum"
      threshold   = 120000
    }
    delivery-late = {
      description = "The oldest change that is not in S3 is older than two minutes. Promised are 60 seconds."
      namespace   = "AWS/Firehose"
      metric      = "DeliveryToS3.DataFreshness"
      dimensions  = { DeliveryStreamName = var.delivery_name }
      statistic   = "Maximum"
      threshold   = 120
    }
    changes-throttled = {
      description = "${var.stream_name} refuses changes for want of capacity. The pipe tries again; more shards help."
      namespace   = "AWS/Kinesis"
      metric      = "WriteProvisionedThroughputExceeded"
      dimensions  = { StreamName = var.stream_name }
      statistic   = "Sum"
      threshold   = 100
    }
    pipe-fails = {
      description = "The pipe cannot read ${var.table_name}'s stream or write to Kinesis. A stream that was enabled again has a new ARN: apply Terraform, then catchment aws reconcile."
      namespace   = "AWS/EventBridge/Pipes"
      metric      = "ExecutionFailed"
      dimensions  = { PipeName = var.pipe_name }
      statistic   = "Sum"
      threshold   = 0
    }
    changes-not-carried = {
      description = "The pipe gave up on changes: the queue says where they are in the stream. catchment aws reconcile brings them."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = "${var.pipe_name}-not-carried" }
      statistic   = "Maximum"
      threshold   = 0
    }
    transform-fails = {
      description = "The function raises or times out; Firehose tries three times, then delivers to ${var.error_prefix}."
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      dimensions  = { FunctionName = var.function_name }
      statistic   = "Sum"
      threshold   = 0
    }
    records-in-errors = {
      description = "Records could not be transformed and lie under ${var.error_prefix}. Mend the function, then catchment aws replay."
      namespace   = "AWS/S3"
      metric      = "PutRequests"
      dimensions  = { BucketName = var.bucket_name, FilterId = "errors" }
      statistic   = "Sum"
      threshold   = 0
    }
  } : {}
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.delivery_name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = 3
  datapoints_to_alarm = each.value.threshold == 0 ? 1 : 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
}

# Request metrics of the error prefix alone: that is what its alarm looks at.
resource "aws_s3_bucket_metric" "errors" {
  count = var.alarms ? 1 : 0

  bucket = aws_s3_bucket.data.id
  name   = "errors"

  filter {
    prefix = var.error_prefix
  }
}
