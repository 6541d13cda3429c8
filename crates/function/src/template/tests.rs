use proptest::prelude::*;
use serde_json::json;

use super::*;

/// As people have them, with what this host has nothing for left in.
const REAL: &str = r#"
ROSTemplateFormatVersion: '2015-09-01'
Transform: 'Aliyun::Serverless-2018-04-03'
Resources:
  demo:
    Type: 'Aliyun::Serverless::Service'
    Properties:
      Description: a demo   # of images
      Role: acs:ram::1234567890:role/any
      Policies:
        - AliyunOSSFullAccess
      InternetAccess: true
      LogConfig:
        Project: p
        Logstore: l
      VpcConfig:
        VpcId: vpc-1
        VSwitchIds: [ vsw-1 ]
        SecurityGroupId: sg-1
    web:
      Type: 'Aliyun::Serverless::Function'
      Properties:
        Description: ''
        Handler: index.handler
        Runtime: custom-container
        CodeUri: ./
        Timeout: 60
        MemorySize: 512
        InstanceConcurrency: 10
        CAPort: 8080
        CustomContainerConfig:
          Image: 'registry.example/demo/web:v1'
          Command: '["node", "server.js"]'
          Args: ["--port", "8080"]
          AccelerationType: Default
        InstanceLifecycleConfig:
          PreStop: { Handler: index.stop, Timeout: 10 }
          PreFreeze: { Handler: '' }
        EnvironmentVariables:
          MODE: production
          PORT: 8080
          DEBUG: true
          EMPTY: ''
          no: on
          UMASK: 0022
        AsyncConfiguration:
          Destination:
            OnSuccess: acs:fc:::services/demo/functions/done
          MaxAsyncRetryAttempts: 1
      Events:
        http-test:
          Type: HTTP
          Properties:
            AuthType: ANONYMOUS
            Methods: ['GET', 'POST']
        tick:
          Type: Timer
          Properties:
            CronExpression: '@every 4m'
            Enable: true
            Payload: '{"a":1}'
        uploads:
          Type: OSS
          Properties:
            BucketName: pictures
            Events: ["oss:ObjectCreated:*"]
            Filter:
              Key: { Prefix: in/, Suffix: '' }
            InvocationRole: acs:ram::1234567890:role/invoke
    job:
      Type: 'Aliyun::Serverless::Function'
      Properties:
        Runtime: custom-container
        CustomContainerConfig:
          Image: registry.example/demo/job
  functions.example.com:
    Type: 'Aliyun::Serverless::CustomDomain'
    Properties:
      Protocol: HTTP
      RouteConfig:
        Routes:
          '/api/*':
            ServiceName: demo
            FunctionName: web
            Qualifier: LATEST
"#;

/// A template with one function, whose properties these are.
fn function(properties: &str) -> String {
    format!(
        "{HEAD}  demo:\n    Type: Aliyun::Serverless::Service\n    web:\n      Type: Aliyun::Serverless::Function\n      Properties: {properties}\n"
    )
}

const HEAD: &str = "ROSTemplateFormatVersion: '2015-09-01'\nTransform: Aliyun::Serverless-2018-04-03\nResources:\n";

const WEB: &str = "{Runtime: custom-container, CustomContainerConfig: {Image: a}}";

fn mistakes(text: &str) -> Vec<String> {
    match Template::parse(text) {
        Err(TemplateError::Mistakes(mistakes)) => {
            mistakes.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn refused(text: &str) -> String {
    match Template::parse(text) {
        Err(TemplateError::Yaml(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_template_becomes_the_bodies_of_calls() {
    let template = Template::parse(REAL).unwrap();
    let [service] = &template.services[..] else {
        panic!("{template:?}");
    };
    assert_eq!(service.name, "demo");
    assert_eq!(
        json!(service.fields),
        json!({
            "serviceName": "demo",
            "description": "a demo",
            "role": "acs:ram::1234567890:role/any",
            "internetAccess": true,
            "logConfig": { "project": "p", "logstore": "l" },
            "vpcConfig": { "vpcId": "vpc-1", "vSwitchIds": ["vsw-1"], "securityGroupId": "sg-1" },
        })
    );
    let [web, job] = &service.functions[..] else {
        panic!("{service:?}");
    };
    assert_eq!(
        json!(web.fields),
        json!({
            "functionName": "web",
            "handler": "index.handler",
            "runtime": "custom-container",
            "timeout": 60,
            "memorySize": 512,
            "instanceConcurrency": 10,
            "caPort": 8080,
            "customContainerConfig": {
                "image": "registry.example/demo/web:v1",
                "command": "[\"node\", \"server.js\"]",
                "args": "[\"--port\",\"8080\"]",
                "accelerationType": "Default",
            },
            "instanceLifecycleConfig": { "preStop": { "handler": "index.stop", "timeout": 10 } },
            "environmentVariables": {
                "MODE": "production", "PORT": "8080", "DEBUG": "true", "EMPTY": "", "no": "on", "UMASK": "0022",
            },
        })
    );
    assert_eq!(
        json!(web.async_config),
        json!({
            "destinationConfig": { "onSuccess": { "destination": "acs:fc:::services/demo/functions/done" } },
            "maxAsyncRetryAttempts": 1,
        })
    );
    assert_eq!((job.name.as_str(), job.triggers.len()), ("job", 0));
    assert_eq!(job.async_config, None);
    assert_eq!(
        template.warnings,
        [
            "Resources.demo.Properties.Policies is left out: functions have no permissions of the cloud's here (line 10)"
        ]
    );
}

#[test]
fn its_triggers_and_domains_too() {
    let template = Template::parse(REAL).unwrap();
    let triggers = json!(template.services[0].functions[0].triggers);
    assert_eq!(
        triggers,
        json!([
            { "name": "http-test", "kind": "http", "fields": {
                "triggerName": "http-test",
                "triggerType": "http",
                "triggerConfig": { "authType": "anonymous", "methods": ["GET", "POST"] },
            } },
            { "name": "tick", "kind": "timer", "fields": {
                "triggerName": "tick",
                "triggerType": "timer",
                "triggerConfig": { "cronExpression": "@every 4m", "enable": true, "payload": "{\"a\":1}" },
            } },
            { "name": "uploads", "kind": "oss", "fields": {
                "triggerName": "uploads",
                "triggerType": "oss",
                "sourceArn": "acs:oss:*:*:pictures",
                "invocationRole": "acs:ram::1234567890:role/invoke",
                "triggerConfig": {
                    "events": ["oss:ObjectCreated:*"],
                    "filter": { "key": { "prefix": "in/" } },
                },
            } },
        ])
    );
    assert_eq!(
        json!(template.domains),
        json!([{ "name": "functions.example.com", "fields": {
            "domainName": "functions.example.com",
            "protocol": "HTTP",
            "routeConfig": { "routes": [
                { "path": "/api/*", "serviceName": "demo", "functionName": "web", "qualifier": "LATEST" },
            ] },
        } }])
    );
}

#[test]
fn every_mistake_is_told_with_its_path_and_line() {
    let text = r"
ROSTemplateFormatVersion: '2015-09-01'
Transform: 'Aliyun::Serverless-2018-04-03'
Resources:
  demo:
    Type: 'Aliyun::Serverless::Service'
    Properties:
      InternetAccess: yes
    web:
      Type: 'Aliyun::Serverless::Function'
      Properties:
        Runtime: custom-container
        Timeout: 1.5
        MemorySize: '512'
        CustomContainerConfig:
          Command: [1]
        EnvironmentVariables:
          VERSION: 1.10
      Events:
        h:
          Type: HTTP
          Properties: { AuthType: none }
        t:
          Type: Timer
          Properties: { CronExpression: '*/5 * * * *' }
        x:
          Type: Kafka
          Properties: {}
    old:
      Type: 'Aliyun::Serverless::Function'
      Properties:
        Runtime: nodejs8
        Handler: index.handler
        CodeUri: ./
    '../up':
      Type: 'Aliyun::Serverless::Function'
";
    assert_eq!(
        mistakes(text),
        [
            "Resources.demo.Properties.InternetAccess has to be true or false (line 8)",
            "Resources.demo.web.Properties.Timeout has to be a whole number (line 13)",
            "Resources.demo.web.Properties.MemorySize has to be a whole number (line 14)",
            "Resources.demo.web.Properties.CustomContainerConfig.Command.0 has to be a text: put it in quotes (line 16)",
            "Resources.demo.web.Properties.CustomContainerConfig.Image is missing (line 15)",
            "Resources.demo.web.Properties.EnvironmentVariables.VERSION has to be a text: put it in quotes (line 18)",
            "Resources.demo.web.Events.h.Properties.Methods is missing (line 22)",
            "Resources.demo.web.Events.h.Properties has an AuthType that is neither anonymous nor function (line 22)",
            "Resources.demo.web.Events.t.Properties has a CronExpression that is none: 5 fields: write six, second minute hour day month weekday, such as `0 */5 * * * *` (a seventh is the year) (line 25)",
            "Resources.demo.web.Events.x is of the type Kafka, which is no trigger that is known here (line 26)",
            "Resources.demo.old.Properties.Runtime is nodejs8: functions are images here, write custom-container (line 32)",
            "Resources.demo.../up is no name: it has to be of at most 64 letters, digits, - and _, and begin with a letter or _ (line 35)",
            "Resources.demo.../up.Properties is missing (line 35)",
        ]
    );
}

#[test]
fn the_head_has_to_be_right() {
    assert_eq!(
        mistakes("Description: nothing\n"),
        [
            "ROSTemplateFormatVersion is missing (line 1)",
            "Transform is missing (line 1)",
            "Resources is missing (line 1)",
        ]
    );
    assert_eq!(
        mistakes(
            "ROSTemplateFormatVersion: '2020-01-01'\nTransform: [a, b]\nGlobals: {}\nResources: {}\n"
        ),
        [
            "ROSTemplateFormatVersion has to be '2015-09-01' (line 1)",
            "Transform has to be 'Aliyun::Serverless-2018-04-03' (line 2)",
            "Globals is not applied here: write the properties where they belong (line 3)",
        ]
    );
    for text in ["", "~", "- a", "just words", "5"] {
        assert_eq!(
            mistakes(text),
            ["the template has to be a map of keys and values (line 1)"],
            "{text:?}"
        );
    }
    // As a list, without quotes, and with what surrounds resources elsewhere.
    let text = "ROSTemplateFormatVersion: 2015-09-01\nTransform: [Aliyun::Serverless-2018-04-03]\nResources: {}\nOutputs: {A: {Value: {Ref: b}}}\nMore: 1\n";
    assert_eq!(
        Template::parse(text).unwrap().warnings,
        [
            "Outputs is left out (line 4)",
            "More is not known and is left out (line 5)"
        ]
    );
}

#[test]
fn references_are_refused_where_they_are() {
    let text = function(
        "{Runtime: custom-container, CustomContainerConfig: {Image: '${REGISTRY}/a'}, Handler: {Ref: b}, Timeout: {'Fn::GetAtt': [a, b]}, EnvironmentVariables: {A: [{'Fn::Sub': c}]}}",
    );
    let path = "Resources.demo.web.Properties";
    let line = "(line 8)";
    let unresolved = "is a function that is not resolved here: write the value";
    assert_eq!(
        mistakes(&text),
        [
            format!(
                "{path}.CustomContainerConfig.Image has a ${{…}} in it, which is not replaced here: write the value {line}"
            ),
            format!("{path}.Handler.Ref {unresolved} {line}"),
            format!("{path}.Timeout.Fn::GetAtt {unresolved} {line}"),
            format!("{path}.EnvironmentVariables.A.0.Fn::Sub {unresolved} {line}"),
        ]
    );
    for tagged in ["!Ref a", "!Sub 'a'", "!GetAtt a.b"] {
        let text = function(&format!("{{Runtime: {tagged}}}"));
        let message = refused(&text);
        assert!(
            message.contains("not resolved here") && message.contains("line 8"),
            "{message}"
        );
    }
}

#[test]
fn what_is_not_known_is_a_warning_with_its_path() {
    let text = function(
        "{Runtime: custom-container, CustomContainerConfig: {Image: a, Img: b}, Memory: 5, codeuri: .}",
    );
    let template = Template::parse(&text).unwrap();
    assert_eq!(
        template.warnings,
        [
            "Resources.demo.web.Properties.CustomContainerConfig.Img is not known and is left out (line 8)",
            "Resources.demo.web.Properties.Memory is not known and is left out (line 8)",
        ]
    );
    let other = format!(
        "{HEAD}  l:\n    Type: Aliyun::Serverless::Log\n  s: {{Type: Aliyun::Serverless::Service, Properties: {{NasConfig: Auto, TracingConfig: Enable, LogConfig: Auto}}}}\n"
    );
    let template = Template::parse(&other).unwrap();
    assert_eq!(template.warnings.len(), 4, "{:?}", template.warnings);
    assert_eq!(
        json!(template.services[0].fields),
        json!({ "serviceName": "s" })
    );
}

#[test]
fn other_resources_are_refused() {
    let text = format!(
        "{HEAD}  a: {{Type: 'ALIYUN::ECS::Instance'}}\n  b: {{Type: 'Aliyun::Serverless::Function'}}\n  c: 5\n  d: {{}}\n  e: {{Type: Aliyun::Serverless::Service, f: {{Type: Other}}, g: 1}}\n"
    );
    assert_eq!(
        mistakes(&text),
        [
            "Resources.a is of the type ALIYUN::ECS::Instance, which is not known here (line 4)",
            "Resources.b has to be inside of a service (line 5)",
            "Resources.c has to be a resource with a Type (line 6)",
            "Resources.d.Type is missing (line 7)",
            "Resources.e.f is of the type Other: only Aliyun::Serverless::Function can be in a service (line 8)",
            "Resources.e.g has to be a resource with a Type (line 8)",
        ]
    );
}

#[test]
fn keys_may_be_written_in_any_case_but_once() {
    let text =
        function("{runtime: custom-container, customContainerConfig: {IMAGE: a}, caport: 80}");
    let fields = &Template::parse(&text).unwrap().services[0].functions[0].fields;
    assert_eq!(
        (&fields["caPort"], &fields["customContainerConfig"]["image"]),
        (&json!(80), &json!("a"))
    );
    let text = function("{Runtime: custom-container, CustomContainerConfig: {Image: a, image: b}}");
    assert_eq!(
        mistakes(&text),
        [
            "Resources.demo.web.Properties.CustomContainerConfig.image is there twice, written otherwise (line 8)"
        ]
    );
    let message = refused(&function("{Timeout: 1, Timeout: 2}"));
    assert!(message.contains("Timeout"), "{message}");
}

#[test]
fn absent_values_are_as_if_they_were_not_there() {
    let text = function(
        "{Runtime: custom-container, Handler: '', Timeout: ~, CustomContainerConfig: {Image: ''}}",
    );
    assert_eq!(
        mistakes(&text),
        ["Resources.demo.web.Properties.CustomContainerConfig.Image is missing (line 8)"]
    );
}

#[test]
fn a_trigger_that_nothing_fires_is_left_out_with_a_warning() {
    let text = function(WEB)
        + "      Events: {q: {Type: MNSTopic, Properties: {TopicName: t, InvocationRole: r}}, no: {Type: HTTP}}\n";
    assert_eq!(
        mistakes(&text),
        ["Resources.demo.web.Events.no.Properties is missing (line 9)"]
    );
    let text = function(WEB)
        + "      Events: {q: {Type: MNSTopic, Properties: {TopicName: t, InvocationRole: r}}}\n";
    let template = Template::parse(&text).unwrap();
    assert_eq!(
        template.warnings,
        ["Resources.demo.web.Events.q is left out: nothing here fires such a trigger (line 9)"]
    );
    assert!(template.services[0].functions[0].triggers.is_empty());
}

#[test]
fn domains_have_names_of_hosts_and_paths() {
    let domain = |name: &str, properties: &str| {
        format!(
            "{HEAD}  {name}: {{Type: Aliyun::Serverless::CustomDomain, Properties: {properties}}}\n"
        )
    };
    let named = Template::parse(&domain("mine", "{DomainName: a.example}")).unwrap();
    assert_eq!(named.domains[0].name, "a.example");
    for (name, properties) in [
        ("mine", "{Protocol: HTTP}"),
        ("mine", "{DomainName: Auto}"),
        ("mine", "{DomainName: 'a.example/x'}"),
        (
            "a.example",
            "{RouteConfig: {Routes: {api: {ServiceName: a, FunctionName: b}}}}",
        ),
        (
            "a.example",
            "{RouteConfig: {Routes: {/api: {ServiceName: a}}}}",
        ),
        ("a.example", "{RouteConfig: {Routes: [a]}}"),
        ("a.example", "~"),
    ] {
        assert_eq!(
            mistakes(&domain(name, properties)).len(),
            1,
            "{name} {properties}"
        );
    }
}

#[test]
fn aliases_and_merges_are_taken() {
    let text = format!(
        "{HEAD}  demo:\n    Type: Aliyun::Serverless::Service\n    a: &a\n      Type: Aliyun::Serverless::Function\n      Properties: &p {WEB}\n    b: *a\n    c:\n      Type: Aliyun::Serverless::Function\n      Properties:\n        <<: *p\n        Timeout: 9\n"
    );
    let template = Template::parse(&text).unwrap();
    let functions = &template.services[0].functions;
    assert_eq!(functions.len(), 3);
    assert_eq!(functions[2].fields["timeout"], 9);
    assert_eq!(functions[2].fields["customContainerConfig"]["image"], "a");
}

#[test]
fn too_much_is_refused() {
    let large = " ".repeat(MAX_TEMPLATE_BYTES + 1);
    assert_eq!(
        Template::parse(&large),
        Err(TemplateError::TooLarge(large.len()))
    );
    // Nine levels of nine aliases each: 9⁹ of them.
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    refused(&laughs);
    // One large text many times.
    let text = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(500_000),
        vec!["*a"; 400].join(",")
    );
    assert!(refused(&text).contains("too much"));
    let text = format!(
        "a: &a \"\\u00e9{}\"\nb: [{}]\n",
        "x".repeat(500_000),
        vec!["*a"; 400].join(",")
    );
    refused(&text);
    let merges = format!(
        "a: &a {{k: {}}}\nb: [{}]\n",
        "x".repeat(500_000),
        vec!["{<<: *a}"; 400].join(",")
    );
    refused(&merges);
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        refused(&format!(
            "{}{}",
            open.repeat(100_000),
            close.repeat(100_000)
        ));
        refused(&open.repeat(100_000));
    }
    let deep: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    refused(&deep);
    refused(&"- a\n".repeat(100_000));
    refused(&format!("{}: 1", "k".repeat(1025)));
    refused(&format!("? {}\n: 1", "k".repeat(500_000)));
    refused("a: &a [*a]\n");
    refused("a: *nowhere\n");
    refused("---\na: 1\n---\nb: 1\n");
    refused("a: .nan\n");
    refused("a: 1e999\n");
    refused("\u{0}");
    refused("a: 'open\n");
    // Many mistakes are told in part.
    let many: String = (0..5000).map(|n| format!("  s{n}: 1\n")).collect();
    assert_eq!(mistakes(&format!("{HEAD}{many}")).len(), 100);
}

#[test]
fn a_message_does_not_repeat_the_whole_text() {
    let key = "k".repeat(900);
    let message = refused(&format!("{key}: 1\n{key}: 2\n"));
    assert!(message.chars().count() <= 301, "{message}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}", cut in 0..REAL.len(), insert in "[-:{}\\[\\]&*!|>'\"#%@`,? \na-z0-9$]{0,8}") {
        let _ = Template::parse(&text);
        let mut real = REAL.to_owned();
        real.insert_str(cut, &insert);
        let _ = Template::parse(&real);
        let _ = Template::parse(&REAL[..cut]);
    }
}
