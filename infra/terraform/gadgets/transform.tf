# The function that Firehose calls: standard library only, a few kilobytes (python -m catchment.aws.bundle).

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
  handler          = "catchment.aws.firehose_transform.handler"
  filename         = var.lambda_zip
  source_code_hash = filebase64sha256(var.lambda_zip)
  memory_size      = var.lambda_memory_mb
  timeout          = 120 # Firehose waits five minutes; a batch of 6 MB takes well under a second

  environment {
    variables = {
      TIMESTAMP_ATTRIBUTES = join(",", var.timestamp_attributes)
    }
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

# It reads nothing and writes nothing but its log, which holds counts and record ids, never values.
data "aws_iam_policy_document" "transform" {
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.transform.arn}:*"]
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
