//! Channels and the providers behind them.

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
            poem_openapi::Enum,
        )]
        #[serde(rename_all = "snake_case")]
        #[oai(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in the order it is declared.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word stored in rows and shown in answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::domain::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::domain::UnknownWord { kind: stringify!($name), word: text.into() }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::domain::UnknownWord;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}
pub(crate) use text_enum;

text_enum! {
    /// How a message reaches a person.
    Channel {
        /// Text message.
        Sms = "sms",
        /// WhatsApp message.
        Whatsapp = "whatsapp",
        /// Email.
        Email = "email",
    }
}

text_enum! {
    /// Who carries a message out.
    Provider {
        /// Twilio: SMS and WhatsApp.
        Twilio = "twilio",
        /// AWS SES: email.
        AwsSes = "aws_ses",
        /// Simulated, for demo tenants.
        Demo = "demo",
    }
}

text_enum! {
    /// What kind of traffic a lane carries.
    Class {
        /// A single message that somebody is waiting for.
        Txn = "txn",
        /// One of a campaign.
        Bulk = "bulk",
    }
}
