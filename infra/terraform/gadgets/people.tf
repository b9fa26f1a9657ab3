# Policies to attach to whoever writes orders, asks questions, or reads the stream directly. No role is made for them.

data "aws_iam_policy_document" "writer" {
  statement {
    sid = "WriteOrders"
    actions = [
      "dynamodb:BatchWriteItem",
      "dynamodb:DeleteItem",
      "dynamodb:DescribeTable",
      "dynamodb:PutItem",
      "dynamodb:UpdateItem",
    ]
    resources = [aws_dynamodb_table.orders.arn]
  }
}

resource "aws_iam_policy" "writer" {
  name        = "${var.delivery_name}-writer"
  description = "For catchment generate gadgets, or the shop itself: write orders."
  policy      = data.aws_iam_policy_document.writer.json
}

data "aws_iam_policy_document" "analyst" {
  statement {
    sid = "Ask"
    actions = [
      "athena:GetNamedQuery",
      "athena:GetQueryExecution",
      "athena:GetQueryResults",
      "athena:GetWorkGroup",
      "athena:ListNamedQueries",
      "athena:StartQueryExecution",
      "athena:StopQueryExecution",
    ]
    resources = [aws_athena_workgroup.sales.arn]
  }

  statement {
    sid     = "KnowTables"
    actions = ["glue:GetDatabase", "glue:GetPartitions", "glue:GetTable", "glue:GetTables"]
    resources = [
      "${local.glue}:catalog",
      aws_glue_catalog_database.sales.arn,
      "${local.glue}:table/${var.database_name}/*",
    ]
  }

  statement {
    sid       = "ReadChanges"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.data.arn}/*"]
  }

  statement {
    sid       = "ErrorsAreNotForThem"
    effect    = "Deny"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.data.arn}/${var.error_prefix}*"]
  }

  statement {
    sid       = "KeepResults"
    actions   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.results.arn}/*"]
  }

  statement {
    sid       = "FindBuckets"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
    resources = [aws_s3_bucket.data.arn, aws_s3_bucket.results.arn]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Decrypt"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_policy" "analyst" {
  name        = "${var.delivery_name}-analyst"
  description = "For catchment query --database ${var.database_name}, and BI tools: ask, and read all but the error prefix."
  policy      = data.aws_iam_policy_document.analyst.json
}

# The direct shape: source {type: dynamodb} or {type: kinesis} in a pipeline.yaml, without pipe, Firehose and function.
data "aws_iam_policy_document" "capture" {
  statement {
    sid       = "ReadTable"
    actions   = ["dynamodb:DescribeTable", "dynamodb:Scan"]
    resources = [aws_dynamodb_table.orders.arn]
  }

  statement {
    sid = "ReadTableChanges"
    actions = [
      "dynamodb:DescribeStream",
      "dynamodb:GetRecords",
      "dynamodb:GetShardIterator",
      "dynamodb:ListStreams",
    ]
    resources = ["${aws_dynamodb_table.orders.arn}/stream/*"]
  }

  statement {
    sid = "ReadStream"
    actions = [
      "kinesis:DescribeStreamSummary",
      "kinesis:GetRecords",
      "kinesis:GetShardIterator",
      "kinesis:ListShards",
    ]
    resources = [aws_kinesis_stream.changes.arn]
  }
}

resource "aws_iam_policy" "capture" {
  name        = "${var.delivery_name}-capture"
  description = "For catchment run with a source of type dynamodb or kinesis."
  policy      = data.aws_iam_policy_document.capture.json
}

# catchment aws replay, reconcile and trace. To read the error prefix its holder must be among error_reader_arns as well.
data "aws_iam_policy_document" "operator" {
  statement {
    sid       = "FindObjects"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
    resources = [aws_s3_bucket.data.arn]
  }

  statement {
    sid       = "ReadChangesAndErrors"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.data.arn}/*"]
  }

  statement {
    sid       = "MarkWhatWasReplayed"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.data.arn}/${var.error_prefix}*"]
  }

  statement {
    sid = "ReadTable"
    actions = [
      "dynamodb:DescribeTable",
      "dynamodb:Scan",
    ]
    resources = [aws_dynamodb_table.orders.arn]
  }

  statement {
    sid = "ReadTableChanges"
    actions = [
      "dynamodb:DescribeStream",
      "dynamodb:GetRecords",
      "dynamodb:GetShardIterator",
      "dynamodb:ListStreams",
    ]
    resources = ["${aws_dynamodb_table.orders.arn}/stream/*"]
  }

  statement {
    sid = "ReadAndPutChanges"
    actions = [
      "kinesis:DescribeStreamSummary",
      "kinesis:GetRecords",
      "kinesis:GetShardIterator",
      "kinesis:ListShards",
      "kinesis:PutRecords",
    ]
    resources = [aws_kinesis_stream.changes.arn]
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

resource "aws_iam_policy" "operator" {
  name        = "${var.delivery_name}-operator"
  description = "For catchment aws replay, reconcile and trace."
  policy      = data.aws_iam_policy_document.operator.json
}
