variable "region" {
  description = "Region of the buckets and of the cluster. Let it be that of the videos: traffic between regions is paid for."
  type        = string
}

variable "catalog_bucket" {
  description = "The bucket that holds the videos; it exists, and nothing here changes it."
  type        = string
}

variable "catalog_prefix" {
  description = "Where the libraries lie in it, without a slash at the end; empty for the whole bucket."
  type        = string
  default     = ""
}

variable "catalog_key_arn" {
  description = "The KMS key of the videos' bucket, if it has one of its own."
  type        = string
  default     = null
}

variable "lake_bucket" {
  description = "Name of the bucket to make for the tables."
  type        = string
}

variable "cluster_name" {
  description = "The EKS cluster that the node groups join; it exists, with an autoscaler and the Pod Identity agent."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets of the nodes. An S3 gateway endpoint in their routes keeps the videos' bytes off the NAT gateway."
  type        = list(string)
}

variable "cpu_instance_types" {
  description = "Machines that decode, with 4 to 8 cores and at least 2 GiB a core."
  type        = list(string)
  default     = ["c7i.2xlarge", "c6i.2xlarge", "c7a.2xlarge"]
}

variable "gpu_instance_types" {
  description = "Machines with one GPU."
  type        = list(string)
  default     = ["g6.2xlarge"]
}

variable "most_cpu_nodes" {
  description = "Most machines that decode at one time."
  type        = number
  default     = 10
}

variable "most_gpu_nodes" {
  description = "Most machines with a GPU at one time."
  type        = number
  default     = 2
}
