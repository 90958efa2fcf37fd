# The role of the platform's pods: it reads the catalogue and writes the lake, and may do nothing else.

locals {
  catalog_objects = var.catalog_prefix == "" ? "*" : "${var.catalog_prefix}/*"
}

data "aws_s3_bucket" "catalog" {
  bucket = var.catalog_bucket
}

data "aws_iam_policy_document" "platform" {
  statement {
    sid       = "ListCatalog"
    actions   = ["s3:ListBucket"]
    resources = [data.aws_s3_bucket.catalog.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.catalog_prefix}*"]
    }
  }

  statement {
    sid       = "ReadCatalog"
    actions   = ["s3:GetObject"]
    resources = ["${data.aws_s3_bucket.catalog.arn}/${local.catalog_objects}"]
  }

  statement {
    sid       = "ListLake"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.lake.arn]
  }

  statement {
    sid       = "WriteLake"
    actions   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    resources = ["${aws_s3_bucket.lake.arn}/*"]
  }

  statement {
    sid       = "EncryptLake"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.lake.arn]
  }

  dynamic "statement" {
    for_each = var.catalog_key_arn == null ? [] : [var.catalog_key_arn]

    content {
      sid       = "DecryptCatalog"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_policy" "platform" {
  name   = "cpllm-platform"
  policy = data.aws_iam_policy_document.platform.json
}

data "aws_iam_policy_document" "pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "platform" {
  name               = "cpllm-platform"
  assume_role_policy = data.aws_iam_policy_document.pods.json
}

resource "aws_iam_role_policy_attachment" "platform" {
  role       = aws_iam_role.platform.name
  policy_arn = aws_iam_policy.platform.arn
}

resource "aws_eks_pod_identity_association" "platform" {
  cluster_name    = var.cluster_name
  namespace       = "cpllm"
  service_account = "cpllm"
  role_arn        = aws_iam_role.platform.arn
}
