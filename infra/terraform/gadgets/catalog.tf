# What Athena knows of the lake: every change as a table, the latest version of each order as a view over it.

resource "aws_glue_catalog_database" "sales" {
  name         = var.database_name
  description  = "Sales of electronic gadgets: every change of an order, and orders as they are now."
  location_uri = "s3://${aws_s3_bucket.data.bucket}/"
}

locals {
  location = "s3://${aws_s3_bucket.data.bucket}/"

  change_columns = [
    ["orderid", "string"],
    ["product_name", "string"],
    ["quantity", "int"],
    ["price", "decimal(10,2)"],
    ["payment_method", "string"],
    ["order_timestamp", "timestamp"],
    ["status", "string"],
    ["event_type", "string"],
    ["event_time", "timestamp"],
    ["event_id", "string"],
    ["sequence_number", "string"],
    ["stream_label", "string"],
    ["order_date", "string"],
  ]

  # Hive's type, and Athena's for the same.
  order_columns = [
    ["orderid", "string", "varchar"],
    ["product_name", "string", "varchar"],
    ["quantity", "int", "integer"],
    ["price", "decimal(10,2)", "decimal(10,2)"],
    ["payment_method", "string", "varchar"],
    ["order_timestamp", "timestamp", "timestamp"],
    ["status", "string", "varchar"],
    ["date", "date", "date"],
  ]

  # A view as Athena writes one: a JSON document in base64 within a comment.
  view = {
    originalSql = trimspace(file("${path.module}/gadget_sales.sql"))
    catalog     = "awsdatacatalog"
    schema      = var.database_name
    columns     = [for column in local.order_columns : { name = column[0], type = column[2] }]
  }
}

# Partitions are computed, not listed: a new hour is there when its first object is.
resource "aws_glue_catalog_table" "changes" {
  name          = "sales_data_table"
  database_name = aws_glue_catalog_database.sales.name
  description   = "Every change of an order, one row each."
  table_type    = "EXTERNAL_TABLE"

  parameters = {
    EXTERNAL                            = "TRUE"
    classification                      = "json"
    "projection.enabled"                = "true"
    "projection.datehour.type"          = "date"
    "projection.datehour.format"        = "yyyy/MM/dd/HH"
    "projection.datehour.range"         = "${var.projection_first_hour},NOW"
    "projection.datehour.interval"      = "1"
    "projection.datehour.interval.unit" = "HOURS"
    "storage.location.template"         = "${local.location}$${datehour}/"
  }

  partition_keys {
    name    = "datehour"
    type    = "string"
    comment = "When Firehose delivered it, UTC: yyyy/MM/dd/HH. A condition on it saves time and money."
  }

  storage_descriptor {
    location      = local.location
    input_format  = "org.apache.hadoop.mapred.TextInputFormat"
    output_format = "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat"

    ser_de_info {
      serialization_library = "org.openx.data.jsonserde.JsonSerDe"
      # A line that is none becomes a row of NULLs, instead of failing every query.
      parameters = { "ignore.malformed.json" = "TRUE" }
    }

    dynamic "columns" {
      for_each = local.change_columns

      content {
        name = columns.value[0]
        type = columns.value[1]
      }
    }
  }

  lifecycle {
    # catchment catalog sync, or the crawler, adds columns when orders get new attributes: they stay.
    ignore_changes = [storage_descriptor[0].columns]
  }
}

resource "aws_glue_catalog_table" "orders" {
  name          = "gadget_sales"
  database_name = aws_glue_catalog_database.sales.name
  description   = "The latest version of each order; removed orders are not there. date is UTC's."
  table_type    = "VIRTUAL_VIEW"

  parameters = {
    comment     = "Presto View"
    presto_view = "true"
  }

  view_original_text = "/* Presto View: ${base64encode(jsonencode(local.view))} */"
  view_expanded_text = "/* Presto View */"

  storage_descriptor {
    # A view has none; Athena writes it so.
    ser_de_info {
      name                  = "-"
      serialization_library = "-"
    }

    dynamic "columns" {
      for_each = local.order_columns

      content {
        name = columns.value[0]
        type = columns.value[1]
      }
    }
  }

  depends_on = [aws_glue_catalog_table.changes]
}
