"""With what: Prefect blocks that hold an address, its secrets and `get_client()`; nothing else."""

from blocks.aws import AwsSecrets
from blocks.azure import AzureKeyVault
from blocks.checkpoints import CheckpointFolder
from blocks.email import SendGridEmail
from blocks.jenkins import JenkinsCi
from blocks.ledger import RecoveryLedger
from blocks.oauth import OAuthApp
from blocks.platform import PlatformAdmin
from blocks.portal import EnrollmentPortal
from blocks.siem import ElasticsearchSiem
from blocks.sms import TwilioSms
from blocks.vault import VaultSecrets

__all__ = [
    "AwsSecrets",
    "AzureKeyVault",
    "CheckpointFolder",
    "ElasticsearchSiem",
    "EnrollmentPortal",
    "JenkinsCi",
    "OAuthApp",
    "PlatformAdmin",
    "RecoveryLedger",
    "SendGridEmail",
    "TwilioSms",
    "VaultSecrets",
]
