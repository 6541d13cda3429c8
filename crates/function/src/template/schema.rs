//! What the resources of a template may have, and what the API calls it.

/// What a property has to be.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    /// A number without a fraction.
    Whole,
    Number,
    Flag,
    /// A text that holds a JSON list, or the list itself.
    Command,
    Texts,
    /// A map of texts; its keys are the user's.
    Strings,
    /// A map that is handed on, or a word that asks for one to be made.
    Object,
    Group(&'static [Property]),
    /// Where results go: a name, in a map or alone.
    Destination,
    /// Left out, with a warning.
    Ignored(&'static str),
    /// Left out: it means nothing here, and everybody writes it.
    Silent,
}

impl Kind {
    pub(super) const fn description(&self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Whole => "a whole number",
            Self::Number => "a number",
            Self::Flag => "true or false",
            Self::Command => "a list of texts, or a text that holds one in JSON",
            Self::Texts => "a list of texts",
            Self::Strings | Self::Object | Self::Group(_) => "a map of keys and values",
            Self::Destination => "the name of what results go to",
            Self::Ignored(_) | Self::Silent => "anything",
        }
    }
}

/// A property of a resource.
#[derive(Debug)]
pub(super) struct Property {
    /// In a template.
    pub(super) name: &'static str,
    /// In the API.
    pub(super) field: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
}

const fn may(name: &'static str, field: &'static str, kind: Kind) -> Property {
    let required = false;
    Property {
        name,
        field,
        kind,
        required,
    }
}

const fn must(name: &'static str, field: &'static str, kind: Kind) -> Property {
    let required = true;
    Property {
        name,
        field,
        kind,
        required,
    }
}

const NO_POLICIES: &str = "is left out: functions have no permissions of the cloud's here";

pub(super) const SERVICE: &[Property] = &[
    may("Description", "description", Kind::Text),
    may("Role", "role", Kind::Text),
    may("Policies", "policies", Kind::Ignored(NO_POLICIES)),
    may("InternetAccess", "internetAccess", Kind::Flag),
    may("LogConfig", "logConfig", Kind::Object),
    may("VpcConfig", "vpcConfig", Kind::Object),
    may("NasConfig", "nasConfig", Kind::Object),
    may("TracingConfig", "tracingConfig", Kind::Object),
];

pub(super) const FUNCTION: &[Property] = &[
    must("Runtime", "runtime", Kind::Text),
    may("Handler", "handler", Kind::Text),
    may("Description", "description", Kind::Text),
    may("CodeUri", "codeUri", Kind::Silent),
    may("Timeout", "timeout", Kind::Whole),
    may("MemorySize", "memorySize", Kind::Whole),
    may("Cpu", "cpu", Kind::Number),
    may("DiskSize", "diskSize", Kind::Whole),
    may("InstanceConcurrency", "instanceConcurrency", Kind::Whole),
    may("InstanceType", "instanceType", Kind::Text),
    may("GpuMemorySize", "gpuMemorySize", Kind::Whole),
    may("CAPort", "caPort", Kind::Whole),
    may("Initializer", "initializer", Kind::Text),
    may(
        "InitializationTimeout",
        "initializationTimeout",
        Kind::Whole,
    ),
    may(
        "EnvironmentVariables",
        "environmentVariables",
        Kind::Strings,
    ),
    must(
        "CustomContainerConfig",
        "customContainerConfig",
        Kind::Group(CONTAINER),
    ),
    may(
        "CustomHealthCheckConfig",
        "customHealthCheckConfig",
        Kind::Group(HEALTH),
    ),
    may(
        "InstanceLifecycleConfig",
        "instanceLifecycleConfig",
        Kind::Group(LIFECYCLE),
    ),
    may("CustomDNS", "customDNS", Kind::Object),
    may("Layers", "layers", Kind::Texts),
    // Taken out again: it is the body of another call.
    may("AsyncConfiguration", ASYNC_FIELD, Kind::Group(ASYNC)),
];

/// What [`FUNCTION`] calls the configuration of asynchronous invocations.
pub(super) const ASYNC_FIELD: &str = "asyncConfiguration";

const CONTAINER: &[Property] = &[
    must("Image", "image", Kind::Text),
    may("Command", "command", Kind::Command),
    may("Args", "args", Kind::Command),
    may("AccelerationType", "accelerationType", Kind::Text),
    may("InstanceID", "instanceID", Kind::Text),
    may("WebServerMode", "webServerMode", Kind::Flag),
];

const HEALTH: &[Property] = &[
    may("HttpGetUrl", "httpGetUrl", Kind::Text),
    may("InitialDelaySeconds", "initialDelaySeconds", Kind::Whole),
    may("PeriodSeconds", "periodSeconds", Kind::Whole),
    may("TimeoutSeconds", "timeoutSeconds", Kind::Whole),
    may("FailureThreshold", "failureThreshold", Kind::Whole),
    may("SuccessThreshold", "successThreshold", Kind::Whole),
];

const LIFECYCLE: &[Property] = &[
    may("PreFreeze", "preFreeze", Kind::Group(HOOK)),
    may("PreStop", "preStop", Kind::Group(HOOK)),
];

const HOOK: &[Property] = &[
    may("Handler", "handler", Kind::Text),
    may("Timeout", "timeout", Kind::Whole),
];

const ASYNC: &[Property] = &[
    may(
        "MaxAsyncRetryAttempts",
        "maxAsyncRetryAttempts",
        Kind::Whole,
    ),
    may(
        "MaxAsyncEventAgeInSeconds",
        "maxAsyncEventAgeInSeconds",
        Kind::Whole,
    ),
    may("StatefulInvocation", "statefulInvocation", Kind::Flag),
    may(
        "Destination",
        "destinationConfig",
        Kind::Group(DESTINATIONS),
    ),
];

const DESTINATIONS: &[Property] = &[
    may("OnSuccess", "onSuccess", Kind::Destination),
    may("OnFailure", "onFailure", Kind::Destination),
];

pub(super) const DESTINATION: &[Property] = &[must("Destination", "destination", Kind::Text)];

/// A kind of trigger.
#[derive(Debug)]
pub(super) struct TriggerKind {
    /// In a template.
    pub(super) name: &'static str,
    /// In the API.
    pub(super) kind: &'static str,
    /// What its `triggerConfig` has; none where nothing here fires such a trigger.
    pub(super) table: Option<&'static [Property]>,
}

const fn trigger(
    name: &'static str,
    kind: &'static str,
    table: Option<&'static [Property]>,
) -> TriggerKind {
    TriggerKind { name, kind, table }
}

pub(super) const TRIGGERS: &[TriggerKind] = &[
    trigger("HTTP", "http", Some(HTTP)),
    trigger("Timer", "timer", Some(TIMER)),
    trigger("OSS", "oss", Some(OSS)),
    trigger("Log", "log", None),
    trigger("RDS", "rds", None),
    trigger("MNSTopic", "mns_topic", None),
    trigger("TableStore", "tablestore", None),
    trigger("CDN", "cdn_events", None),
];

/// What belongs to the trigger itself and not to its configuration.
pub(super) const TRIGGER: [&str; 3] = ["invocationRole", "sourceArn", "qualifier"];

/// What [`OSS`] calls its bucket.
pub(super) const BUCKET: &str = "bucketName";

const HTTP: &[Property] = &[
    must("AuthType", "authType", Kind::Text),
    must("Methods", "methods", Kind::Texts),
    may("DisableURLInternet", "disableURLInternet", Kind::Flag),
    may("InvocationRole", "invocationRole", Kind::Text),
    may("Qualifier", "qualifier", Kind::Text),
];

const TIMER: &[Property] = &[
    must("CronExpression", "cronExpression", Kind::Text),
    may("Enable", "enable", Kind::Flag),
    may("Payload", "payload", Kind::Text),
    may("InvocationRole", "invocationRole", Kind::Text),
    may("Qualifier", "qualifier", Kind::Text),
];

const OSS: &[Property] = &[
    must("BucketName", BUCKET, Kind::Text),
    must("Events", "events", Kind::Texts),
    may("Filter", "filter", Kind::Group(FILTER)),
    may("InvocationRole", "invocationRole", Kind::Text),
    may("Qualifier", "qualifier", Kind::Text),
];

const FILTER: &[Property] = &[may("Key", "key", Kind::Group(KEY))];

const KEY: &[Property] = &[
    may("Prefix", "prefix", Kind::Text),
    may("Suffix", "suffix", Kind::Text),
];

pub(super) const DOMAIN: &[Property] = &[
    may("DomainName", "domainName", Kind::Text),
    may("Protocol", "protocol", Kind::Text),
    may("CertConfig", "certConfig", Kind::Object),
    // Read apart: its keys are paths.
    may("RouteConfig", "routeConfig", Kind::Silent),
];

pub(super) const ROUTE: &[Property] = &[
    must("ServiceName", "serviceName", Kind::Text),
    must("FunctionName", "functionName", Kind::Text),
    may("Qualifier", "qualifier", Kind::Text),
    may("Methods", "methods", Kind::Texts),
];
