//! The topics of a stream as a request writes them.

use std::str::FromStr;

use super::Topic;
use crate::api::problem::{ApiError, ApiResult, ProblemType};
use crate::domain::actor::{Actor, Permission};
use crate::domain::ids::MessageKey;
use crate::live::topic::TopicKind;

/// Topics of one stream at most.
const TOPICS_MAX: usize = 20;

/// What is asked for, of the actor's tenant, each once.
///
/// # Errors
/// 400 for what is no topic, and for too many; 403 for what the role may not see.
pub(super) fn topics_of(text: &str, actor: &Actor) -> ApiResult<Vec<Topic>> {
    let mut topics = Vec::new();
    for word in text.split(',').map(str::trim) {
        let topic = topic(word, actor)?;
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    if topics.len() > TOPICS_MAX {
        return Err(refused(
            format!("One stream takes {TOPICS_MAX} topics at most. Open another one for the rest."),
            format!("has more than {TOPICS_MAX} topics"),
        ));
    }
    Ok(topics)
}

fn topic(word: &str, actor: &Actor) -> ApiResult<Topic> {
    let tenant_id = actor.tenant_id;
    let topic = match word.split_once(':') {
        None if word == TopicKind::Home.as_str() => Topic::Home(tenant_id),
        None if word == TopicKind::Campaigns.as_str() => Topic::Campaigns(tenant_id),
        Some((kind, id)) if kind == TopicKind::Campaign.as_str() => {
            Topic::Campaign(tenant_id, id_of(word, id)?)
        }
        Some((kind, id)) if kind == TopicKind::Import.as_str() => {
            Topic::Import(tenant_id, id_of(word, id)?)
        }
        Some((kind, id)) if kind == TopicKind::Message.as_str() => Topic::Message(MessageKey {
            tenant_id,
            id: id_of(word, id)?,
        }),
        _ => return Err(unknown(word)),
    };
    actor.require(match topic.kind() {
        TopicKind::Campaigns | TopicKind::Campaign => Permission::ReadCampaigns,
        TopicKind::Import => Permission::ReadContacts,
        TopicKind::Home | TopicKind::Message | TopicKind::Operations => Permission::ReadMessages,
    })?;
    Ok(topic)
}

fn id_of<T: FromStr>(word: &str, id: &str) -> ApiResult<T> {
    id.parse().map_err(|_| {
        refused(
            format!("'{}' must end with the id, a UUID.", shortened(word)),
            format!("has '{}', whose id is no UUID", shortened(word)),
        )
    })
}

fn unknown(word: &str) -> ApiError {
    refused(
        format!(
            "There is no topic '{}'. Topics are home, campaigns, campaign:<id>, import:<id> and message:<id>, parted by \
             commas.",
            shortened(word)
        ),
        format!("has '{}', which is no topic", shortened(word)),
    )
}

fn shortened(word: &str) -> String {
    word.chars().take(64).collect()
}

fn refused(detail: String, message: String) -> ApiError {
    ApiError::new(ProblemType::InvalidParameter, detail).with_field("topics", message)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::actor::{Role, Who};
    use crate::domain::ids::{CampaignId, TenantId, UserId};

    fn read(text: &str) -> ApiResult<Vec<Topic>> {
        let actor = Actor {
            tenant_id: TenantId(Uuid::nil()),
            who: Who::User(UserId(Uuid::nil())),
            role: Role::Viewer,
        };
        topics_of(text, &actor)
    }

    #[test]
    fn each_topic_is_the_actors_tenants_and_there_once() {
        let (tenant_id, id) = (TenantId(Uuid::nil()), Uuid::from_u128(7));
        let text = format!("home, campaigns,home,campaign:{id}, import:{id},message:{id}");
        let wanted = [
            Topic::Home(tenant_id),
            Topic::Campaigns(tenant_id),
            Topic::Campaign(tenant_id, CampaignId(id)),
            Topic::Import(tenant_id, id.into()),
            Topic::Message(MessageKey {
                tenant_id,
                id: id.into(),
            }),
        ];
        assert_eq!(read(&text).unwrap(), wanted);
    }

    #[test]
    fn what_is_no_topic_is_refused_with_those_that_are() {
        for text in [
            "",
            "x",
            "home,",
            "Home",
            "operations",
            "home:1",
            "campaign",
            "jobs:7",
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.problem(), ProblemType::InvalidParameter, "{text}");
            assert!(error.to_string().contains("import:<id>"), "{text}: {error}");
        }
        for text in ["campaign:", "campaign:7", "import:x", "message:home"] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().contains("UUID"), "{text}: {error}");
        }
        let many: Vec<_> = (0..21)
            .map(|n| format!("message:{}", Uuid::from_u128(n)))
            .collect();
        assert!(
            read(&many.join(","))
                .unwrap_err()
                .to_string()
                .contains("20")
        );
        assert_eq!(read(&many[1..].join(",")).unwrap().len(), 20);
    }
}
