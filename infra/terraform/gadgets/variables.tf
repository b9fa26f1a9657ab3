variable "region" {
  description = "Where all of it is; null takes AWS_REGION or the profile's."
  type        = string
  default     = null
}

variable "tags" {
  description = "Put on every resource that can have tags."
  type        = map(string)
  default     = { application = "gadget-sales" }
}

# -- names: the gadgets example's. A bucket's name is unique among all of AWS, so choose your own there -----------------

variable "table_name" {
  description = "The DynamoDB table of orders; its key is orderid."
  type        = string
  default     = "OrderTable"
}

variable "stream_name" {
  description = "The Kinesis stream that carries the changes."
  type        = string
  default     = "gadget-sales-stream"
}

variable "delivery_name" {
  description = "The Firehose that delivers to S3; begins the names of its objects."
  type        = string
  default     = "gadget-sales-delivery"
}

variable "function_name" {
  description = "The Lambda function that turns a change into clean JSON."
  type        = string
  default     = "gadget-sales-transform"
}

variable "pipe_name" {
  description = "The EventBridge Pipe from the table's stream to Kinesis."
  type        = string
  default     = "gadget-sales-pipe"
}

variable "bucket_name" {
  description = "The data lake's bucket. Choose your own on AWS: names of buckets are unique among all accounts."
  type        = string
  default     = "gadget-sales-data"
}

variable "database_name" {
  description = "The Glue database."
  type        = string
  default     = "gadgets_sales_db"
}

variable "workgroup_name" {
  description = "The Athena workgroup."
  type        = string
  default     = "gadget-sales"
}

# -- the function ---------------------------------------------------------------------------------------------------

variable "lambda_zip" {
  description = "The function's code: python -m catchment.aws.bundle build/gadget-sales-transform.zip"
  type        = string
}

variable "invoked_by" {
  description = "What gives records to the function: firehose (which transforms by it), or kinesis (the function puts into Firehose itself)."
  type        = string
  default     = "firehose"

  validation {
    condition     = contains(["firehose", "kinesis"], var.invoked_by)
    error_message = "It is firehose or kinesis."
  }
}

variable "lambda_memory_mb" {
  description = "Memory of the function; its share of a processor grows with it."
  type        = number
  default     = 512
}

variable "timestamp_attributes" {
  description = "Attributes of an order that are moments: brought into the one format that Athena reads."
  type        = list(string)
  default     = ["order_timestamp"]
}

# -- latency: the sum of these three is what a change waits by design; < 60 s in all ---------------------------------

variable "pipe_window_seconds" {
  description = "How long the pipe waits to fill a batch (0 to 300)."
  type        = number
  default     = 1
}

variable "transform_window_seconds" {
  description = "How long Firehose gathers records for one call of the function (0 to 900)."
  type        = number
  default     = 10
}

variable "delivery_window_seconds" {
  description = "How long Firehose gathers clean records for one object (0 to 900). Shorter means more and smaller objects."
  type        = number
  default     = 30

  validation {
    condition     = var.delivery_window_seconds + var.transform_window_seconds + var.pipe_window_seconds < 55
    error_message = "A change is to be queryable within 60 seconds: the three windows together must stay below 55."
  }
}

variable "delivery_size_mib" {
  description = "An object is also closed when it has this much, before compression (1 to 128)."
  type        = number
  default     = 64
}

variable "compression" {
  description = "GZIP or UNCOMPRESSED."
  type        = string
  default     = "GZIP"

  validation {
    condition     = contains(["GZIP", "UNCOMPRESSED"], var.compression)
    error_message = "The lake's readers know GZIP and UNCOMPRESSED."
  }
}

# -- capacity -----------------------------------------------------------------------------------------------------------

variable "shards" {
  description = "Shards of the Kinesis stream (1 MB/s or 1,000 records/s each); 0 leaves it to AWS (on demand)."
  type        = number
  default     = 0
}

variable "stream_retention_hours" {
  description = "How long Kinesis keeps changes: how long delivery may be down without loss (24 to 8760)."
  type        = number
  default     = 24
}

variable "pipe_retries" {
  description = "How often the pipe tries a batch before it is split and, alone, given to the queue of what the pipe could not carry."
  type        = number
  default     = 50
}

# -- what is kept, and who may read it ------------------------------------------------------------------------------

variable "error_prefix" {
  description = "Where records go that could not be transformed. They hold the original data: treated as personal data."
  type        = string
  default     = "errors/"

  validation {
    condition     = can(regex("^[a-z0-9-]+/$", var.error_prefix))
    error_message = "One folder, such as errors/: lifecycle, policy and crawler are bound to it."
  }
}

variable "error_retention_days" {
  description = "Days after which records under the error prefix are deleted."
  type        = number
  default     = 14
}

variable "error_reader_arns" {
  description = "Roles or users that may read the error prefix (for catchment aws replay). Nobody else may, administrators included."
  type        = list(string)
  default     = []
}

variable "infrequent_access_days" {
  description = "Days after which data moves to cheaper storage; 0 leaves it."
  type        = number
  default     = 90
}

variable "results_retention_days" {
  description = "Days after which results of queries are deleted."
  type        = number
  default     = 7
}

variable "kms_key_arn" {
  description = "A key of your own for the buckets; null uses S3's. Its policy must admit the roles that are made here."
  type        = string
  default     = null
}

variable "protect" {
  description = "Refuse to delete the table of orders and buckets that are not empty. Set false only where data may go."
  type        = bool
  default     = true
}

# -- the catalog --------------------------------------------------------------------------------------------------------

variable "projection_first_hour" {
  description = "The first hour that queries look for, yyyy/MM/dd/HH. Each later hour costs a query one listing."
  type        = string
  default     = "2026/01/01/00"
}

variable "crawler" {
  description = "A Glue crawler that looks for new columns. catchment catalog sync does the same without its cost."
  type        = bool
  default     = false
}

variable "crawler_schedule" {
  description = "When the crawler runs."
  type        = string
  default     = "cron(15 * * * ? *)"
}

variable "query_scan_limit_bytes" {
  description = "A query that reads more is stopped."
  type        = number
  default     = 10737418240
}

# -- alarms -------------------------------------------------------------------------------------------------------------

variable "alarms" {
  description = "CloudWatch alarms."
  type        = bool
  default     = true
}

variable "alarm_actions" {
  description = "What alarms tell: ARNs of SNS topics."
  type        = list(string)
  default     = []
}

# -- for a stand-in -----------------------------------------------------------------------------------------------------

variable "stand_in" {
  description = "It is made on MiniStack: Firehose is described there but not bound to the stream, for catchment aws firehose to play it."
  type        = bool
  default     = false
}
