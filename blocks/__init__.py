"""With what: Prefect blocks that hold an address, its secrets and `get_client()`; nothing else."""

from blocks.aws import AwsSecrets
from blocks.azure import AzureKeyVault
from blocks.checkpoints import CheckpointFolder
from blocks.email import SendGridEmail
from blocks.github import GitHubActionsCi
from blocks.gitlab import GitLabCi
from blocks.jenkins import JenkinsCi
from blocks.kubernetes import KubernetesCi
from blocks.ledger import RecoveryLedger
from blocks.oauth import OAuthApp
from blocks.platform import PlatformAdmin
from blocks.portal import EnrollmentPortal
from blocks.siem import ElasticsearchSiem
from blocks.sms import TwilioSms
from blocks.vault import VaultSecrets
from blocks.webhook_ci import WebhookCi

__all__ = [
    "AwsSecrets",
    "AzureKeyVault",
    "CheckpointFolder",
    "ElasticsearchSiem",
    "EnrollmentPortal",
    "GitHubActionsCi",
    "GitLabCi",
    "JenkinsCi",
    "KubernetesCi",
    "OAuthApp",
    "PlatformAdmin",
    "RecoveryLedger",
    "SendGridEmail",
    "TwilioSms",
    "VaultSecrets",
    "WebhookCi",
]
