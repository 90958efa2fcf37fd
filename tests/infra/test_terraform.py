"""What Terraform is asked for: well formed, and no right more than docs/operations.md names."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "terraform"
FILES = sorted(FOLDER.glob("*.tf"))
TEXT = "\n".join(path.read_text() for path in FILES)


def bare(value: Any) -> Any:
    """Values without the quotation marks that the parser keeps and without its own fields."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if isinstance(value, dict):
        return {bare(key): bare(part) for key, part in value.items() if not key.startswith("__")}
    return value.strip('"') if isinstance(value, str) else value


def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """The blocks of a kind by their address."""
    found: dict[str, dict[str, Any]] = {}
    for path in FILES:
        with path.open() as file:
            for block in bare(hcl2.load(file)).get(kind, []):
                names = []
                while len(block) == 1 and isinstance(next(iter(block.values())), dict) and len(names) < 2:
                    name, block = next(iter(block.items()))
                    names.append(name)
                    if kind in ("variable", "output") and len(names) == 1:
                        break
                found[".".join(names)] = block
    return found


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_the_files_are_formatted() -> None:
    command = ["terraform", "fmt", "-check", "-diff", str(FOLDER)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_names_lead_somewhere() -> None:
    resources, data = blocks("resource"), blocks("data")
    assert {"aws_s3_bucket.lake", "aws_eks_node_group.workers"} <= set(resources)
    used = set(re.findall(r"(?<![\w.])(aws_\w+\.\w+)(?=[.\[])", TEXT.replace("data.", "data_")))
    assert used <= set(resources), used - set(resources)
    assert set(re.findall(r"\bdata\.(aws_\w+\.\w+)", TEXT)) <= set(data)
    assert set(re.findall(r"\bvar\.(\w+)", TEXT)) == set(blocks("variable"))
    for name, block in (blocks("variable") | blocks("output")).items():
        assert block["description"], name


def test_the_commands_of_the_page_name_every_variable_without_a_default() -> None:
    page = (FOLDER / "README.md").read_text()
    for name, block in blocks("variable").items():
        assert "default" in block or re.search(rf"-var '?{name}=", page), name


def test_the_lake_is_encrypted_versioned_and_closed() -> None:
    resources = blocks("resource")
    (versioning,) = resources["aws_s3_bucket_versioning.lake"]["versioning_configuration"]
    assert versioning["status"] == "Enabled"
    (rule,) = resources["aws_s3_bucket_server_side_encryption_configuration.lake"]["rule"]
    assert rule["apply_server_side_encryption_by_default"][0]["sse_algorithm"] == "aws:kms"
    assert resources["aws_kms_key.lake"]["enable_key_rotation"] is True
    closed = resources["aws_s3_bucket_public_access_block.lake"]
    assert all(closed[name] is True for name in (
        "block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"))  # fmt: skip


def test_the_platform_may_do_what_it_needs_and_nothing_else() -> None:
    statements = {one["sid"]: one for one in blocks("data")["aws_iam_policy_document.platform"]["statement"]}
    assert {sid: set(one["actions"]) for sid, one in statements.items()} == {
        "ListCatalog": {"s3:ListBucket"},
        "ReadCatalog": {"s3:GetObject"},
        "ListLake": {"s3:ListBucket"},
        "WriteLake": {"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"},
        "EncryptLake": {"kms:Decrypt", "kms:GenerateDataKey"},
    }
    for sid, one in statements.items():
        (resource,) = one["resources"]
        assert ("catalog" in resource) == sid.endswith("Catalog")
        assert resource != "*"
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert all(
        f"`{action}`" in operations for action in ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject")
    )


def test_nodes_scale_to_zero() -> None:
    group = blocks("resource")["aws_eks_node_group.workers"]
    (scaling,) = group["scaling_config"]
    assert scaling["min_size"] == scaling["desired_size"] == 0
    assert "desired_size" in str(group["lifecycle"])
    # From nothing, the autoscaler knows labels and taints by tags alone.
    assert {"aws_autoscaling_group_tag.label", "aws_autoscaling_group_tag.taint"} <= set(blocks("resource"))


def test_the_role_is_bound_to_the_service_account_of_the_manifests() -> None:
    bound = blocks("resource")["aws_eks_pod_identity_association.platform"]
    assert (bound["namespace"], bound["service_account"]) == ("cpllm", "cpllm")
