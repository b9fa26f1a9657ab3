output "region" {
  description = "Where it is."
  value       = local.region
}

output "table_name" {
  description = "The DynamoDB table to write orders into."
  value       = aws_dynamodb_table.orders.name
}

output "table_stream_arn" {
  description = "Its stream of changes."
  value       = aws_dynamodb_table.orders.stream_arn
}

output "stream_name" {
  description = "The Kinesis stream that carries the changes."
  value       = aws_kinesis_stream.changes.name
}

output "delivery_name" {
  description = "The Firehose that delivers them."
  value       = aws_kinesis_firehose_delivery_stream.sales.name
}

output "function_name" {
  description = "The Lambda function that cleans them."
  value       = aws_lambda_function.transform.function_name
}

output "bucket" {
  description = "The data lake's bucket."
  value       = aws_s3_bucket.data.bucket
}

output "error_location" {
  description = "Records that could not be transformed: personal data, for catchment aws replay."
  value       = "s3://${aws_s3_bucket.data.bucket}/${var.error_prefix}"
}

output "database" {
  description = "The Glue database, for catchment query --database."
  value       = aws_glue_catalog_database.sales.name
}

output "workgroup" {
  description = "The Athena workgroup."
  value       = aws_athena_workgroup.sales.name
}

output "latency_seconds" {
  description = "What a change waits at most, by the windows alone: from PutItem to an object in S3."
  value       = var.pipe_window_seconds + var.transform_window_seconds + var.delivery_window_seconds
}

output "policies" {
  description = "Policies to attach: writer (orders), analyst (queries), capture (the direct shape), operator (replay, reconcile, trace)."
  value = {
    writer   = aws_iam_policy.writer.arn
    analyst  = aws_iam_policy.analyst.arn
    capture  = aws_iam_policy.capture.arn
    operator = aws_iam_policy.operator.arn
  }
}
