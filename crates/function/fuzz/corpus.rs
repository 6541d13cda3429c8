//! Writes what the fuzzer begins with into `corpus/TARGET`: what clients, object stores and users send and write, each as its target
//! reads it.

use std::error::Error;
use std::fs;

use serde_json::{Value, json};

/// An input, after the names of its target and its own.
type Input = (&'static str, String, Vec<u8>);

const SERVICE: &str = "ROSTemplateFormatVersion: '2015-09-01'
Transform: 'Aliyun::Serverless-2018-04-03'
Resources:
  shop:
    Type: 'Aliyun::Serverless::Service'
    Properties:
      Description: pictures   # and what is made of them
      Policies: [AliyunOSSFullAccess]
      InternetAccess: false
      LogConfig: { Project: p, Logstore: l }
      VpcConfig: { VpcId: vpc-1, VSwitchIds: [vsw-1], SecurityGroupId: sg-1 }
    resize:
      Type: 'Aliyun::Serverless::Function'
      Properties:
        Runtime: custom-container
        Timeout: 60
        MemorySize: 512
        CAPort: 8080
        CustomContainerConfig:
          Image: 'registry.example/shop/resize:v2'
          Command: '[\"node\", \"server.js\"]'
          Args: [\"--quality\", \"80\"]
          AccelerationType: Default
        InstanceLifecycleConfig:
          PreStop: { Handler: index.stop, Timeout: 10 }
        EnvironmentVariables: { MODE: production, PORT: 8080, DEBUG: true, UMASK: 0022, none: '' }
        AsyncConfiguration:
          Destination: { OnSuccess: 'acs:fc:::services/shop/functions/done' }
          MaxAsyncRetryAttempts: 1
      Events:
        web:
          Type: HTTP
          Properties: { AuthType: ANONYMOUS, Methods: ['GET', 'POST'] }
        tick:
          Type: Timer
          Properties: { CronExpression: '@every 4m', Enable: true, Payload: '{\"a\":1}' }
        uploads:
          Type: OSS
          Properties:
            BucketName: pictures
            Events: [\"oss:ObjectCreated:*\"]
            Filter: { Key: { Prefix: in/, Suffix: .jpg } }
            InvocationRole: acs:ram::1234567890:role/invoke
";
const DOMAIN: &str = "ROSTemplateFormatVersion: '2015-09-01'
Transform: [Aliyun::Serverless-2018-04-03]
Resources:
  functions.example.com:
    Type: 'Aliyun::Serverless::CustomDomain'
    Properties:
      Protocol: HTTP
      RouteConfig:
        Routes:
          '/api/*': { ServiceName: shop, FunctionName: resize, Qualifier: LATEST }
";
/// Anchors, merged maps, references, texts over several lines, and things that are wrong.
const ODD: &str = "ROSTemplateFormatVersion: '2015-09-01'
Transform: 'Aliyun::Serverless-2018-04-03'
Common: &common { Runtime: custom-container, CustomContainerConfig: &image { Image: a } }
Resources:
  a:
    Type: Aliyun::Serverless::Service
    f: { Type: Aliyun::Serverless::Function, Properties: *common }
    g:
      Type: Aliyun::Serverless::Function
      Properties: { <<: *common, Timeout: 1.5, Description: { Ref: b }, Handler: '${A}' }
      Events: { q: { Type: MNSTopic }, t: { Type: Timer, Properties: { CronExpression: '* *' } } }
    h:
      Type: Aliyun::Serverless::Function
      Properties:
        Runtime: nodejs8
        Description: |
          two
          lines
        Handler: >-
          folded
          text
";

const SCHEDULES: [&str; 16] = [
    "@every 1h30m",
    "@every 90s",
    "0 30 2 * * MON-FRI",
    "*/20 * * * * ?",
    "0 5/25 * * * *",
    "0 0 0 L * *",
    "0 0 0 * * 5L",
    "0 0 12 15W * ?",
    "0 0 0 29 2 *",
    "0 0 0 1 1 * 2030",
    "0 0 8 ? * SUN#2",
    "CRON_TZ=Asia/Shanghai 0 0 8 * * *",
    "TZ=Europe/Berlin 0 30 2 * * *",
    "CRON_TZ=America/Sao_Paulo 0 */7 0-3 * 2,10,11 *",
    "CRON_TZ=Australia/Lord_Howe 15 45 1,2 * * *",
    "CRON_TZ=Pacific/Apia 0 0 0 30,31 12 *",
];

const REQUESTS: [&str; 7] = [
    "POST /2016-08-15/services/demo/functions/web/invocations\nContent-Type: application/json\n\n{}",
    "GET /2016-08-15/proxy/demo.LATEST/web/a%20b?y=2&y=1&x=%2F&z\ndate: Mon, 23 Nov 2026 08:00:00 GMT\nauthorization: FC key:ladt9SQwoV6dBx+F3Wu+AfgfkMET6JI9BieYgetYLoY=\n\n",
    "GET /2021-04-06/services/demo/functions?limit=10&prefix=a%20b&nextToken=YQ%3D%3D\n\n",
    "POST /2023-03-30/functions/web/invocations?qualifier=LATEST\nx-acs-date: 2026-11-23T08:00:00Z\nx-acs-content-sha256: 015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862\nx-acs-signature-nonce: 1\nauthorization: ACS3-HMAC-SHA256 Credential=key,SignedHeaders=x-acs-content-sha256;x-acs-date;x-acs-signature-nonce,Signature=f9a53df094abda7694fe7d48ceebe70837a328b24b2d81218a7c32a79e515c2d\n\nbody",
    "PUT /?&&=&a=&=b&c&a=%00&%3D=%26+%2B\nAuthorization: FC k:c2ln\nAuthorization: FC k:c2ln\n\n",
    "DELETE /2016-08-15/tag?resourceArn=services%2Fdemo&tagKeys=a&tagKeys=b\n\n",
    "GET /%E7%8C%AB/..%2f..//?x=%e7%8c%ab&%zz=%\n\n",
];

const ROUTES: [&str; 10] = [
    "/2016-08-15/proxy/demo.LATEST/web/a%20b/../c\nHost: shop.example:80",
    "/2023-03-30/proxy/demo%24web.prod/x\nhost: [::1]:7000\nhost: 127.0.0.1",
    "/2021-04-06/proxy/%e7%8c%ab/w%2eb//\nHost: Shop.Example\nCookie: a=b; thaw-console=0123; c",
    "/console/api/functions\nHost: localhost:7000\nOrigin: http://localhost:7000\nSec-Fetch-Site: same-origin",
    "/2016-08-15/services/demo/functions/web/invocations\nHost: a.localhost\nOrigin: null",
    "/events/demo/web/uploads\nHost: 0x7f.1\nCookie: thaw-console=1\nCookie: thaw-console=2; x=thaw-console=3",
    "/%2e%2e/%2F/%00//./..\nHost: xn--a.example:\nOrigin: https://xn--a.example\nSec-Fetch-Site: none",
    "/2023-03-30/proxy/%24web/\nHost: a.b.1",
    "/2021-04-06/proxy/a%2fb.%2e/%2e%2e/x",
    "/2016-08-15/proxy/%ff%00/web/x",
];

/// Bodies of functions: everything that may be in one, in the words of each version.
fn bodies() -> [Value; 5] {
    [
        json!({ "functionName": "web", "customContainerConfig": { "image": "registry.example/a:1" } }),
        json!({
            "functionName": "web", "runtime": "custom-container", "handler": "h", "timeout": 60, "memorySize": "512",
            "cpu": 0.5, "diskSize": 512, "instanceConcurrency": 10, "internetAccess": false, "caPort": 8080,
            "initializer": "index.init", "initializationTimeout": 30,
            "customHealthCheckConfig": { "httpGetUrl": "/ready", "periodSeconds": 2, "failureThreshold": 1 },
            "instanceLifecycleConfig": {
                "preStop": { "handler": "stop", "timeout": 5 }, "preFreeze": { "handler": "" },
            },
            "customContainerConfig": {
                "image": "a", "command": "[\"a\",\"b\"]", "args": "[]", "accelerationType": "None", "instanceID": "i",
            },
            "environmentVariables": { "A": "b", "N": 1, "T": true, "EMPTY": "" },
            "logConfig": { "project": "p" }, "nasConfig": { "mountPoints": [] },
        }),
        json!({
            "functionName": "web", "description": "d", "memorySize": 1024, "diskSize": 10240,
            "customContainerConfig": {
                "image": "a@sha256:1", "entrypoint": ["a"], "command": ["b", "c"], "port": 9000,
                "healthCheckConfig": { "httpGetUrl": "/", "initialDelaySeconds": 1, "successThreshold": 2 },
            },
            "instanceLifecycleConfig": { "initializer": { "handler": "init" }, "preStop": null },
            "gpuConfig": {}, "layers": [], "sessionAffinity": "NONE", "tags": [{ "key": "a", "value": "b" }],
        }),
        json!({
            "functionName": "job",
            "customContainerConfig": { "image": "a", "webServerMode": false, "args": "[\"x\"]" },
        }),
        json!({ "CustomContainerConfig": { "Image": "a" }, "MEMORYSIZE": "256", "vpcConfig": { "vpcId": "v" } }),
    ]
}

/// Notifications of several stores, with their headers.
fn notifications() -> [String; 6] {
    let record = |name: &str, key: &str| {
        json!({
            "eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "cn-east",
            "eventTime": "2026-01-01T00:00:00.000Z", "eventName": name, "userIdentity": { "principalId": "alice" },
            "requestParameters": { "sourceIPAddress": "192.0.2.7" },
            "responseElements": { "x-amz-request-id": "17F0" },
            "s3": {
                "bucket": { "name": "photos", "ownerIdentity": { "principalId": "owner" } },
                "object": { "key": key, "size": 5, "eTag": "5d41" },
            },
        })
    };
    let (put, gone) = ("s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete");
    let records = json!({ "Records": [record(put, "in/a+b%2F1.jpg"), record(gone, "in/c")] });
    let event = json!({
        "specversion": "1.0", "type": "com.example.object.created", "id": "7", "source": "s",
        "time": "2026-01-01T00:00:00Z", "data": { "bucket": "b", "name": "k", "size": "12", "etag": "e" },
    });
    let encoded =
        json!({ "specversion": "1.0", "type": "x", "data_base64": "eyJidWNrZXQiOiJiIn0=" });
    let within =
        json!({ "specversion": "1.0", "type": "x", "data": { "Records": [record(put, "k")] } });
    let binary = "ce-specversion: 1.0\nce-type: org.example.ObjectRemoved:Delete\nce-subject: in/%E7%8C%AB.jpg\nce-source: store\nce-id: 9\nce-time: 2026-01-01T00:00:00Z\n\n{\"size\":7}";
    [
        format!("\n{records}"),
        format!("content-type: application/cloudevents+json\n\n{event}"),
        format!("\n{}", json!([event, encoded])),
        format!("\n{within}"),
        binary.to_owned(),
        binary.replace("{\"size\":7}", "no JSON"),
    ]
}

/// The inputs of all targets, each with a name.
pub(crate) fn inputs() -> Result<Vec<Input>, Box<dyn Error>> {
    let mut inputs = Vec::new();
    let mut add = |target, name: String, bytes: Vec<u8>| inputs.push((target, name, bytes));
    for (name, text) in [("service", SERVICE), ("domain", DOMAIN), ("odd", ODD)] {
        add("template", name.to_owned(), text.into());
    }
    for (number, text) in SCHEDULES.iter().enumerate() {
        let hours = u16::try_from(number * 3001)?;
        let bytes = [&hours.to_le_bytes(), text.as_bytes()].concat();
        add("schedule", number.to_string(), bytes);
    }
    for (number, text) in REQUESTS.iter().enumerate() {
        add("signature", number.to_string(), (*text).into());
    }
    for (number, text) in ROUTES.iter().enumerate() {
        add("routing", number.to_string(), (*text).into());
    }
    for (number, body) in bodies().iter().enumerate() {
        for version in 0..3 {
            let bytes = [&[version], body.to_string().as_bytes()].concat();
            add("configuration", format!("{number}-{version}"), bytes);
        }
    }
    for (number, text) in notifications().into_iter().enumerate() {
        add("notification", number.to_string(), text.into());
    }
    Ok(inputs)
}

fn main() -> Result<(), Box<dyn Error>> {
    for (target, name, bytes) in inputs()? {
        fs::create_dir_all(format!("corpus/{target}"))?;
        fs::write(format!("corpus/{target}/{name}"), bytes)?;
    }
    Ok(())
}
