//! Which provider carries a message: the demo's for demo senders, else the tenant's own account.

use crate::domain::channel::{Channel, Provider as Carrier};
use crate::domain::holds::Holds;
use crate::providers::demo::DemoProvider;
use crate::providers::twilio::{Account, Twilio};
use crate::providers::{Provider, ProviderSettings};
use crate::store::credentials::TwilioCredentials;

/// The providers of this process.
#[derive(Debug)]
pub(super) struct Carriers {
    demo: DemoProvider,
    twilio: Twilio,
}

impl Carriers {
    pub(super) fn new(demo: DemoProvider, settings: ProviderSettings, holds: &Holds) -> Self {
        Self {
            demo,
            twilio: Twilio::new(settings, holds),
        }
    }

    /// The provider of a message, with the tenant's credentials for its channel.
    ///
    /// # Errors
    /// What is missing, as a code.
    pub(super) fn provider_for(
        &self,
        carrier: Carrier,
        channel: Channel,
        credentials: Option<&TwilioCredentials>,
    ) -> Result<Box<dyn Provider>, &'static str> {
        match (carrier, channel, credentials) {
            (Carrier::Demo, _, _) => Ok(Box::new(self.demo.clone())),
            (Carrier::Twilio, Channel::Sms, Some(credentials)) => {
                Ok(Box::new(self.twilio.sms(account(credentials))))
            }
            (Carrier::Twilio, Channel::Sms, None) => Err("no_credentials"),
            (Carrier::Twilio | Carrier::AwsSes, _, _) => Err("provider_not_available"),
        }
    }

    /// A provider that can list what went out with these credentials, whatever channel they are for.
    ///
    /// # Errors
    /// What is missing, as a code: email is not listed.
    pub(super) fn lister_for(
        &self,
        carrier: Carrier,
        credentials: &TwilioCredentials,
    ) -> Result<Box<dyn Provider>, &'static str> {
        self.provider_for(carrier, Channel::Sms, Some(credentials))
    }
}

fn account(credentials: &TwilioCredentials) -> Account {
    let TwilioCredentials {
        tenant_id,
        id,
        account_sid,
        auth_token,
        ..
    } = credentials;
    Account {
        tenant_id: *tenant_id,
        credentials_id: *id,
        account_sid: account_sid.clone(),
        auth_token: auth_token.clone(),
    }
}
