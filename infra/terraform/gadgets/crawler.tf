# Optional: a crawler that looks for new columns, as catchment catalog sync does. It adds to the table and deletes nothing.

resource "aws_glue_crawler" "changes" {
  count = var.crawler ? 1 : 0

  name          = "${var.delivery_name}-columns"
  description   = "New attributes of orders become columns of sales_data_table."
  role          = aws_iam_role.crawler[0].arn
  database_name = aws_glue_catalog_database.sales.name
  schedule      = var.crawler_schedule

  catalog_target {
    database_name = aws_glue_catalog_database.sales.name
    tables        = [aws_glue_catalog_table.changes.name]
  }

  schema_change_policy {
    delete_behavior = "LOG"
    update_behavior = "UPDATE_IN_DATABASE"
  }

  configuration = jsonencode({
    Version       = 1.0
    CrawlerOutput = { Tables = { AddOrUpdateBehavior = "MergeNewColumns" } }
    Grouping      = { TableGroupingPolicy = "CombineCompatibleSchemas" }
  })

  depends_on = [aws_iam_role_policy.crawler]
}

data "aws_iam_policy_document" "assume_glue" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["glue.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "crawler" {
  statement {
    sid = "ReadAndUpdateTable"
    actions = [
      "glue:BatchGetPartition",
      "glue:GetDatabase",
      "glue:GetPartition",
      "glue:GetPartitions",
      "glue:GetTable",
      "glue:GetTables",
      "glue:UpdateTable",
    ]
    resources = [
      "${local.glue}:catalog",
      aws_glue_catalog_database.sales.arn,
      "${local.glue}:table/${var.database_name}/*",
    ]
  }

  statement {
    sid       = "FindBucket"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
    resources = [aws_s3_bucket.data.arn]
  }

  statement {
    sid       = "ReadChanges"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.data.arn}/*"]
  }

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/aws-glue/crawlers:*"]
  }
}

resource "aws_iam_role" "crawler" {
  count = var.crawler ? 1 : 0

  name               = "${var.delivery_name}-crawler"
  description        = "The crawler of sales_data_table; the error prefix is closed to it by the bucket's policy."
  assume_role_policy = data.aws_iam_policy_document.assume_glue.json
}

resource "aws_iam_role_policy" "crawler" {
  count = var.crawler ? 1 : 0

  name   = "crawl"
  role   = aws_iam_role.crawler[0].id
  policy = data.aws_iam_policy_document.crawler.json
}
