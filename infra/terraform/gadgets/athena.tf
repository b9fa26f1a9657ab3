# Where people ask. Results are encrypted, kept shortly, and a query that would read too much is stopped.

resource "aws_athena_workgroup" "sales" {
  name          = var.workgroup_name
  description   = "Gadget sales."
  force_destroy = true

  configuration {
    enforce_workgroup_configuration    = true
    publish_cloudwatch_metrics_enabled = true
    bytes_scanned_cutoff_per_query     = var.query_scan_limit_bytes

    engine_version {
      selected_engine_version = "Athena engine version 3"
    }

    result_configuration {
      output_location = "s3://${aws_s3_bucket.results.bucket}/"

      encryption_configuration {
        encryption_option = var.kms_key_arn == null ? "SSE_S3" : "SSE_KMS"
        kms_key_arn       = var.kms_key_arn
      }
    }
  }
}

resource "aws_athena_named_query" "upi_changes" {
  name        = "Changes of orders paid by UPI, newest first"
  description = "Every change, so an order may be there several times."
  workgroup   = aws_athena_workgroup.sales.id
  database    = aws_glue_catalog_database.sales.name
  query       = "SELECT * FROM ${var.database_name}.sales_data_table WHERE payment_method = 'UPI' ORDER BY order_timestamp DESC"
}

resource "aws_athena_named_query" "units_today" {
  name        = "Units sold today, by product"
  description = "Of orders as they are now: a changed order counts once, a removed one not at all. Today is UTC's."
  workgroup   = aws_athena_workgroup.sales.id
  database    = aws_glue_catalog_database.sales.name
  query       = "SELECT product_name, SUM(quantity) AS total_units FROM gadget_sales WHERE date = CURRENT_DATE GROUP BY product_name"
}
