"""alibabacloud-fc20230330, the SDK of FC 3: functions without services."""

import base64
import io
import json
import os
import time

from alibabacloud_fc20230330 import models
from alibabacloud_fc20230330.client import Client
from alibabacloud_tea_openapi.models import Config
from darabonba.exceptions import DaraException
from darabonba.runtime import RuntimeOptions

ENV = os.environ


def client_of(key, secret):
    return Client(Config(
        access_key_id=key, access_key_secret=secret, endpoint=ENV["ENDPOINT"].split("//")[1],
        protocol="HTTP", region_id="local",
    ))


client = client_of(ENV["KEY"], ENV["SECRET"])


def refused(code, call, *args):
    try:
        call(*args)
    except DaraException as error:
        assert error.code == code, (error.code, error)
        return error
    raise AssertionError(f"{call.__name__} should be refused with {code}")


def create(name):
    container = models.CustomContainerConfig(
        image=ENV["IMAGE"], entrypoint=["/function"], port=9000, acceleration_type="None"
    )
    body = models.CreateFunctionInput(
        function_name=name, runtime="custom-container", handler="none", memory_size=128, timeout=30,
        cpu=0.1, disk_size=512, internet_access=True, custom_container_config=container,
        environment_variables={"WHO": "2023"},
    )
    return client.create_function(models.CreateFunctionRequest(body=body)).body


made = create("web3")
assert made.state == "Active" and made.last_update_status == "Successful", made
assert made.function_arn == f"acs:fc:far:{ENV['ACCOUNT']}:functions/web3", made
container = made.custom_container_config
assert container.entrypoint == ["/function"] and container.port == 9000, container
assert "@sha256:" in container.resolved_image_uri, container
refused("FunctionAlreadyExists", create, "web3")
create("web3-a")
page = client.list_functions(models.ListFunctionsRequest(limit=1, prefix="web3")).body
assert [it.function_name for it in page.functions] == ["web3"] and page.next_token
page = client.list_functions(models.ListFunctionsRequest(prefix="web3", next_token=page.next_token)).body
assert [it.function_name for it in page.functions] == ["web3-a"] and not page.next_token
update = models.UpdateFunctionRequest(body=models.UpdateFunctionInput(memory_size=192))
updated = client.update_function("web3", update).body
assert (updated.memory_size, updated.timeout) == (192, 30), updated
got = client.get_function("web3", models.GetFunctionRequest()).body
assert got.environment_variables == {"WHO": "2023"}, got
refused("FunctionNotFound", client.get_function, "nix", models.GetFunctionRequest())


# How far the acceleration of an image is.
container = models.CustomContainerConfig(
    image=ENV["IMAGE"], entrypoint=["/function"], acceleration_type="Default"
)
fast = models.CreateFunctionInput(
    function_name="fast3", runtime="custom-container", handler="none",
    custom_container_config=container, tags=[models.Tag(key="team", value="a")],
)
made = client.create_function(models.CreateFunctionRequest(body=fast)).body
assert [(it.key, it.value) for it in made.tags] == [("team", "a")], made
seen = []
for _ in range(1200):
    got = client.get_function("fast3", models.GetFunctionRequest()).body
    seen.append(got.custom_container_config.acceleration_info.status)
    if seen[-1] == "Ready":
        break
    time.sleep(0.05)
assert set(seen) <= {"Preparing", "Ready"} and seen[-1] == "Ready", seen[-1]
listed = client.list_functions(models.ListFunctionsRequest(prefix="fast3")).body.functions
assert listed[0].custom_container_config.acceleration_info.status == "Ready"

arn = made.function_arn
tags = models.TagResourcesInput(
    resource_type="function", resource_id=[arn], tag=[models.Tag(key="stage", value="test")]
)
client.tag_resources(models.TagResourcesRequest(body=tags))
request = models.ListTagResourcesRequest(resource_type="function", resource_id=[arn])
found = client.list_tag_resources(request).body.tag_resources
assert [(it.tag_key, it.tag_value) for it in found] == [("stage", "test"), ("team", "a")], found
request = models.UntagResourcesRequest(resource_type="function", resource_id=[arn], all=True)
client.untag_resources(request)
assert not client.get_function("fast3", models.GetFunctionRequest()).body.tags
client.delete_function("fast3")


def invoke(text, qualifier=None, **headers):
    request = models.InvokeFunctionRequest(body=io.BytesIO(text.encode()), qualifier=qualifier)
    headers = models.InvokeFunctionHeaders(**headers)
    answer = client.invoke_function_with_options("web3", request, headers, RuntimeOptions())
    return answer.status_code, answer.headers, answer.body.read()


status, headers, body = invoke("hello", x_fc_log_type="Tail")
assert (status, body) == (200, b"hello"), body
assert "FC Invoke Start" in base64.b64decode(headers["x-fc-log-result"]).decode()
status, headers, body = invoke("fail")
assert headers["x-fc-error-type"] == "UnhandledInvocationError", headers
assert json.loads(body)["errorMessage"] == "failed as told", body
status, headers, body = invoke("later", x_fc_invocation_type="Async", x_fc_async_task_id="job-3")
assert status == 202, body
for _ in range(200):
    task = client.get_async_task("web3", "job-3", models.GetAsyncTaskRequest()).body
    if task.status == "Succeeded":
        break
    time.sleep(0.05)
assert (task.status, task.task_id) == ("Succeeded", "job-3"), task
tasks = client.list_async_tasks("web3", models.ListAsyncTasksRequest(limit=10)).body.tasks
assert [it.task_id for it in tasks] == ["job-3"], tasks

publish = models.PublishFunctionVersionRequest(body=models.PublishVersionInput(description="v"))
version = client.publish_function_version("web3", publish).body.version_id
assert version == "1"
update = models.UpdateFunctionInput(environment_variables={"WHO": "later"})
client.update_function("web3", models.UpdateFunctionRequest(body=update))
alias = models.CreateAliasInput(alias_name="live", version_id=version)
assert client.create_alias("web3", models.CreateAliasRequest(body=alias)).body.version_id == "1"
assert b"WHO=2023" in invoke("env", qualifier="live")[2]
assert b"WHO=later" in invoke("env")[2]
listed = client.list_function_versions("web3", models.ListFunctionVersionsRequest()).body
assert [it.version_id for it in listed.versions] == ["1"]
assert len(client.list_aliases("web3", models.ListAliasesRequest()).body.aliases) == 1

config = json.dumps({"authType": "anonymous", "methods": ["GET"]})
trigger = models.CreateTriggerInput(trigger_name="front", trigger_type="http", trigger_config=config)
trigger = client.create_trigger("web3", models.CreateTriggerRequest(body=trigger)).body
assert json.loads(trigger.trigger_config) == json.loads(config), trigger
assert trigger.http_trigger.url_internet.startswith(ENV["ENDPOINT"] + "/"), trigger
config = json.dumps({"authType": "function", "methods": ["GET"]})
update = models.UpdateTriggerRequest(body=models.UpdateTriggerInput(trigger_config=config))
assert json.loads(client.update_trigger("web3", "front", update).body.trigger_config)["authType"] == "function"
assert len(client.list_triggers("web3", models.ListTriggersRequest()).body.triggers) == 1

disable = models.DisableFunctionInvocationRequest(reason="on holiday")
assert client.disable_function_invocation("web3", disable).body.success
got = client.get_function("web3", models.GetFunctionRequest()).body
assert got.invocation_restriction.disable and got.invocation_restriction.reason == "on holiday", got
refused("AccessDenied", invoke, "x")
assert client.enable_function_invocation("web3").body.success
assert invoke("x")[2] == b"x"
instances = client.list_instances("web3", models.ListInstancesRequest()).body.instances
assert instances and all(it.instance_id for it in instances), instances

limit = models.PutConcurrencyInput(reserved_concurrency=3)
limit = models.PutConcurrencyConfigRequest(body=limit)
assert client.put_concurrency_config("web3", limit).body.reserved_concurrency == 3
assert client.get_concurrency_config("web3").body.reserved_concurrency == 3
configs = client.list_concurrency_configs(models.ListConcurrencyConfigsRequest()).body.configs
assert [it.reserved_concurrency for it in configs] == [3], configs
client.delete_concurrency_config("web3")
least = models.PutProvisionConfigRequest(body=models.PutProvisionConfigInput(default_target=0, target=0))
assert client.put_provision_config("web3", least).body.target == 0
least = models.PutScalingConfigRequest(body=models.PutScalingConfigInput(min_instances=0))
assert client.put_scaling_config("web3", least).body.min_instances == 0
config = models.PutAsyncInvokeConfigInput(max_async_retry_attempts=1, async_task=True)
config = models.PutAsyncInvokeConfigRequest(body=config)
assert client.put_async_invoke_config("web3", config).body.max_async_retry_attempts == 1
assert client.get_async_invoke_config("web3", models.GetAsyncInvokeConfigRequest()).body.async_task is True

for key, secret, code in [
    (ENV["KEY"], "wrong", "SignatureNotMatch"), ("nobody", ENV["SECRET"], "InvalidAccessKeyID")
]:
    refused(code, client_of(key, secret).get_function, "web3", models.GetFunctionRequest())

refused("FunctionNotEmpty", client.delete_function, "web3")
client.delete_trigger("web3", "front")
client.delete_function("web3")
client.delete_function("web3-a")
refused("FunctionNotFound", client.get_function, "web3", models.GetFunctionRequest())
