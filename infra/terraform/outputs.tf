output "lake_uri" {
  description = "Value of CPLLM_LAKE_URI."
  value       = "s3://${aws_s3_bucket.lake.bucket}/quality"
}

output "catalog_uri" {
  description = "Value of CPLLM_CATALOG_URI."
  value       = "s3://${join("/", compact([var.catalog_bucket, var.catalog_prefix]))}"
}

output "role_arn" {
  description = "The role of the platform's pods, bound to the service account cpllm in the namespace cpllm."
  value       = aws_iam_role.platform.arn
}
