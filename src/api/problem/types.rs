//! The types of problems: what programs compare, each with its status and its few words. Documented in docs/api.md.

macro_rules! problem_types {
    ($($(#[$doc:meta])* $name:ident = $status:literal $slug:literal $title:literal,)+) => {
        /// What went wrong, by the part of the answer that programs compare.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ProblemType { $($(#[$doc])* $name),+ }

        impl ProblemType {
            /// Every type, by status.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The last part of the `type`. Never changes.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug),+ }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status),+ }
            }

            /// The same few words for each problem of this type.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title),+ }
            }
        }
    };
}

problem_types! {
    /// The request is not HTTP as we understand it, or broke off.
    MalformedRequest = 400 "malformed-request" "The request could not be read",
    /// The body is not JSON.
    MalformedJson = 400 "malformed-json" "The body is not JSON",
    /// A parameter in the address is unknown or cannot be read.
    InvalidParameter = 400 "invalid-parameter" "A parameter is not valid",
    /// The cursor is not one of ours, or another list's.
    InvalidCursor = 400 "invalid-cursor" "The cursor is not valid",
    /// No session and no key, or one that no longer counts.
    Unauthenticated = 401 "unauthenticated" "Sign in first",
    /// Email and password do not fit.
    WrongCredentials = 401 "wrong-credentials" "Email or password is wrong",
    /// The role does not allow it.
    Forbidden = 403 "forbidden" "Your role does not allow this",
    /// A browser sent it from another site.
    ForeignOrigin = 403 "foreign-origin" "The request comes from another site",
    /// Signed in, but a member of no such tenant.
    NotAMember = 403 "not-a-member" "You are not a member of this tenant",
    /// The caller did not sign it as a provider's account does.
    SignatureRefused = 403 "signature-refused" "The signature is missing or wrong",
    /// The tenant is not active.
    TenantInactive = 403 "tenant-inactive" "This tenant is not active",
    /// The role that is given or touched is above one's own.
    RoleAboveOwn = 403 "role-above-own" "The role is above your own",
    /// No operation has this address.
    UnknownAddress = 404 "unknown-address" "There is nothing at this address",
    /// The thing is not there, or is somebody else's.
    NotFound = 404 "not-found" "Not found",
    /// The address exists, with other methods.
    MethodNotAllowed = 405 "method-not-allowed" "This address does not take this method",
    /// The name is taken.
    NameTaken = 409 "name-taken" "The name is taken",
    /// Somebody else changed it meanwhile.
    Conflict = 409 "conflict" "It was changed meanwhile",
    /// The person is a member.
    AlreadyMember = 409 "already-member" "They are a member already",
    /// The person has an open invitation.
    AlreadyInvited = 409 "already-invited" "They are invited already",
    /// The invitation was used, taken back or ran out.
    InvitationEnded = 409 "invitation-ended" "The invitation has ended",
    /// A tenant keeps one owner at least.
    LastOwner = 409 "last-owner" "The last owner cannot go",
    /// Only an active tenant can be stopped.
    TenantNotActive = 409 "tenant-not-active" "The tenant is not active",
    /// Only a suspended tenant can be resumed.
    TenantNotSuspended = 409 "tenant-not-suspended" "The tenant is not suspended",
    /// The campaign was sent before.
    CampaignAlreadySent = 409 "campaign-already-sent" "The campaign was sent before",
    /// Only a campaign that is sending can be paused.
    CampaignNotSending = 409 "campaign-not-sending" "The campaign is not sending",
    /// Nothing of it was sent that could be sent again.
    CampaignNotSent = 409 "campaign-not-sent" "The campaign was not sent",
    /// Only a paused campaign can go on.
    CampaignNotPaused = 409 "campaign-not-paused" "The campaign is not paused",
    /// Only a scheduled campaign can be unscheduled.
    CampaignNotScheduled = 409 "campaign-not-scheduled" "The campaign is not scheduled",
    /// The sender sends nothing any more.
    SenderRetired = 409 "sender-retired" "The sender was retired",
    /// There is no halt to lift.
    SenderNotHalted = 409 "sender-not-halted" "The sender is not halted",
    /// An address is one sender's alone.
    SenderTaken = 409 "sender-taken" "The address is another sender's",
    /// The channel has no provider account.
    ChannelNotConnected = 409 "channel-not-connected" "The channel has no provider account",
    /// Only a draft can be changed.
    CampaignNotDraft = 409 "campaign-not-draft" "The campaign is not a draft",
    /// It has completed or was cancelled before.
    CampaignEnded = 409 "campaign-ended" "The campaign has ended",
    /// A live job does what the dead one would.
    JobAlreadyLive = 409 "job-already-live" "A live job does the same work",
    /// Evidence or another person settled the message.
    MessageNotParked = 409 "message-not-parked" "The message is not parked",
    /// The message is past its time.
    MessageExpired = 409 "message-expired" "The message is past its time",
    /// The first request with this idempotency key has not ended.
    IdempotencyKeyBusy = 409 "idempotency-key-busy" "The first request with this key is at work",
    /// The file is still coming in.
    ImportNotUploaded = 409 "import-not-uploaded" "The upload has not ended",
    /// The import was started before.
    ImportAlreadyStarted = 409 "import-already-started" "The import was started before",
    /// The import has ended, one way or another.
    ImportEnded = 409 "import-ended" "The import has ended",
    /// Somebody has the same number and the same address.
    ContactExists = 409 "contact-exists" "The contact is there already",
    /// Nothing new is made of an archived template.
    TemplateArchived = 409 "template-archived" "The template is archived",
    /// A campaign or an import needs the list.
    ListInUse = 409 "list-in-use" "The list is needed",
    /// The import the campaign is written to has not completed.
    ImportUnfinished = 409 "import-unfinished" "The import has not completed",
    /// The body is larger than the operation takes.
    BodyTooLarge = 413 "body-too-large" "The body is too large",
    /// The operation takes another media type.
    UnsupportedMediaType = 415 "unsupported-media-type" "The media type is not supported",
    /// The idempotency key was used for another request.
    IdempotencyKeyReused = 422 "idempotency-key-reused" "The key was used for another request",
    /// The body is JSON, but not what the operation takes.
    InvalidBody = 422 "invalid-body" "The body is not valid",
    /// A text cannot be a template's.
    InvalidTemplate = 422 "invalid-template" "The template cannot be used",
    /// The campaign has no template.
    CampaignWithoutTemplate = 422 "campaign-without-template" "The campaign has no template",
    /// The pace is none, or something else is slower.
    InvalidPace = 422 "invalid-pace" "The pace cannot be set",
    /// The rate is none, or more than a sender of the kind does.
    InvalidRate = 422 "invalid-rate" "The rate cannot be set",
    /// What was written is no number and no email address.
    InvalidAddress = 422 "invalid-address" "The address cannot be used",
    /// The address opted out, or was suppressed otherwise.
    Suppressed = 422 "suppressed" "Nothing is sent to this address",
    /// Bulk needs consent.
    NoConsent = 422 "no-consent" "There is no consent",
    /// The text asks for what this person lacks.
    MissingVariable = 422 "missing-variable" "A variable is missing",
    /// There is no active sender for the channel.
    NoSender = 422 "no-sender" "There is nothing to send from",
    /// A campaign cannot start then.
    InvalidSendAt = 422 "invalid-send-at" "The campaign cannot start then",
    /// Nobody would get it.
    EmptyAudience = 422 "empty-audience" "Nobody would get it",
    /// The template names what no contact has.
    UnknownVariable = 422 "unknown-variable" "No contact has this variable",
    /// What the body says cannot be done.
    Unprocessable = 422 "unprocessable" "This cannot be done",
    /// The file is no table of contacts.
    UnreadableFile = 422 "unreadable-file" "The file cannot be read",
    /// Too many tries; wait.
    TooManyTries = 429 "too-many-tries" "Too many tries",
    /// Our fault. Nothing was changed.
    Internal = 500 "internal" "We could not do this",
    /// Not now. Nothing was changed; try again.
    Unavailable = 503 "unavailable" "Not available now",
}
