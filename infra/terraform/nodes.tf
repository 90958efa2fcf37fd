# Nodes of Ray's workers. Both groups are empty until a run asks for workers, and after it.

locals {
  pools = {
    cpu = { types = var.cpu_instance_types, most = var.most_cpu_nodes, ami = "AL2023_x86_64_STANDARD",
    taint = { key = "cpllm/pool", value = "cpu" }, capacity = "SPOT", disk_gib = 60 }
    gpu = { types = var.gpu_instance_types, most = var.most_gpu_nodes, ami = "AL2023_x86_64_NVIDIA",
    taint = { key = "nvidia.com/gpu", value = "true" }, capacity = "ON_DEMAND", disk_gib = 120 }
  }
}

data "aws_iam_policy_document" "nodes" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "nodes" {
  name               = "cpllm-nodes"
  assume_role_policy = data.aws_iam_policy_document.nodes.json
}

resource "aws_iam_role_policy_attachment" "nodes" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])
  role       = aws_iam_role.nodes.name
  policy_arn = "arn:aws:iam::aws:policy/${each.value}"
}

resource "aws_eks_node_group" "workers" {
  for_each        = local.pools
  cluster_name    = var.cluster_name
  node_group_name = "cpllm-${each.key}"
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = var.subnet_ids
  ami_type        = each.value.ami
  capacity_type   = each.value.capacity
  instance_types  = each.value.types
  disk_size       = each.value.disk_gib
  labels          = { "cpllm/pool" = each.key }
  depends_on      = [aws_iam_role_policy_attachment.nodes]

  scaling_config {
    min_size     = 0
    desired_size = 0
    max_size     = each.value.most
  }

  taint {
    key    = each.value.taint.key
    value  = each.value.taint.value
    effect = "NO_SCHEDULE"
  }

  # The autoscaler's, not Terraform's.
  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }
}

# From zero nodes the autoscaler can only know by these tags what a node would be.
resource "aws_autoscaling_group_tag" "label" {
  for_each               = local.pools
  autoscaling_group_name = aws_eks_node_group.workers[each.key].resources[0].autoscaling_groups[0].name

  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/label/cpllm/pool"
    value               = each.key
    propagate_at_launch = false
  }
}

resource "aws_autoscaling_group_tag" "taint" {
  for_each               = local.pools
  autoscaling_group_name = aws_eks_node_group.workers[each.key].resources[0].autoscaling_groups[0].name

  tag {
    key                 = "k8s.io/cluster-autoscaler/node-template/taint/${each.value.taint.key}"
    value               = "${each.value.taint.value}:NoSchedule"
    propagate_at_launch = false
  }
}
