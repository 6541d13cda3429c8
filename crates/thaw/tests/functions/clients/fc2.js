// @alicloud/fc2, the Node.js SDK of the API of 2016.

const assert = require('assert');
const FC = require('@alicloud/fc2');

const { ENDPOINT, ACCOUNT, KEY, SECRET, IMAGE } = process.env;
const config = { accessKeyID: KEY, accessKeySecret: SECRET, region: 'local', endpoint: ENDPOINT };
const client = new FC(ACCOUNT, config);

async function refused(code, call) {
  await assert.rejects(call, (error) => {
    assert.strictEqual(error.code, code, error.message);
    assert.strictEqual(error.name, `FC${code}Error`);
    assert.ok(!error.message.includes('undefined'), error.message);
    return true;
  });
}

async function main() {
  await client.createService('js', { description: 'first' });
  const got = await client.getService('js');
  assert.strictEqual(got.data.description, 'first');
  const match = { 'if-match': got.headers.etag };
  await client.updateService('js', { description: 'second' }, match);
  await refused('PreconditionFailed', () => client.updateService('js', {}, match));
  await client.createService('js-a');
  const page = (await client.listServices({ limit: 1, prefix: 'js' })).data;
  assert.deepStrictEqual(page.services.map((it) => it.serviceName), ['js']);
  const rest = (await client.listServices({ prefix: 'js', nextToken: page.nextToken })).data;
  assert.deepStrictEqual(rest.services.map((it) => it.serviceName), ['js-a']);

  const made = (await client.createFunction('js', {
    functionName: 'web',
    runtime: 'custom-container',
    handler: 'none',
    memorySize: '128',
    timeout: 30,
    caPort: 9000,
    customContainerConfig: { image: IMAGE, accelerationType: 'None' },
    environmentVariables: { WHO: 'node' },
  })).data;
  assert.strictEqual(made.memorySize, 128);
  const etag = (await client.getFunction('js', 'web')).headers.etag;
  const updated = await client.updateFunction('js', 'web', { memorySize: 192 }, { 'if-match': etag });
  assert.strictEqual(updated.data.memorySize, 192);
  assert.strictEqual(updated.data.environmentVariables.WHO, 'node');
  await refused('PreconditionFailed', () => client.updateFunction('js', 'web', { memorySize: 256 }, { 'if-match': etag }));
  await refused('FunctionNotFound', () => client.getFunction('js', 'nix'));
  const functions = (await client.listFunctions('js', { limit: 5 })).data.functions;
  assert.deepStrictEqual(functions.map((it) => it.functionName), ['web']);

  // How far the acceleration of an image is.
  await client.createFunction('js', {
    functionName: 'fast',
    runtime: 'custom-container',
    handler: 'none',
    customContainerConfig: { image: IMAGE, accelerationType: 'Default' },
  });
  let status = null;
  for (let i = 0; i < 1200 && status !== 'Ready'; i++) {
    const { customContainerConfig } = (await client.getFunction('js', 'fast')).data;
    status = customContainerConfig.accelerationInfo.status;
    assert.ok(['Preparing', 'Ready'].includes(status), status);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.strictEqual(status, 'Ready');
  await client.deleteFunction('js', 'fast');

  const arn = `acs:fc:far:${ACCOUNT}:services/js`;
  await client.tagResource(arn, { team: 'a' });
  assert.deepStrictEqual((await client.getResourceTags({ resourceArn: arn })).data.tags, { team: 'a' });
  await client.untagResource(arn, ['team']);
  assert.deepStrictEqual((await client.getResourceTags({ resourceArn: arn })).data.tags, {});

  assert.strictEqual((await client.invokeFunction('js', 'web', 'hello')).data, 'hello');
  const raw = await client.invokeFunction('js', 'web', Buffer.from([0, 200, 1]), {}, null, { rawBuf: true });
  assert.deepStrictEqual([...raw.data], [0, 200, 1]);
  const tail = await client.invokeFunction('js', 'web', 'print it', { 'X-Fc-Log-Type': 'Tail' });
  const log = Buffer.from(tail.headers['x-fc-log-result'], 'base64').toString();
  assert.ok(log.includes('it\n'), log);
  const failed = await client.invokeFunction('js', 'web', 'fail');
  assert.strictEqual(failed.headers['x-fc-error-type'], 'UnhandledInvocationError');
  assert.ok(JSON.stringify(failed.data).includes('failed as told'), failed.data);
  const queued = await client.invokeFunction('js', 'web', 'x', { 'X-Fc-Invocation-Type': 'Async' });
  assert.strictEqual(queued.data, '');
  assert.ok(queued.headers['x-fc-request-id']);

  const version = (await client.publishVersion('js', 'v')).data.versionId;
  assert.strictEqual(version, '1');
  assert.strictEqual((await client.listVersions('js')).data.versions.length, 1);
  await client.updateFunction('js', 'web', { environmentVariables: { WHO: 'later' } });
  await client.createAlias('js', 'live', version);
  const env = (await client.invokeFunction('js', 'web', 'env', {}, 'live')).data;
  assert.ok(env.includes('WHO=node'), env);
  await client.updateAlias('js', 'live', version, { description: 'd' });
  assert.strictEqual((await client.getAlias('js', 'live')).data.description, 'd');

  const triggerConfig = { authType: 'function', methods: ['GET'] };
  const trigger = { triggerName: 'front', triggerType: 'http', triggerConfig };
  const created = (await client.createTrigger('js', 'web', trigger)).data;
  assert.deepStrictEqual(created.triggerConfig, triggerConfig);
  const answer = await client.get('/proxy/js/web/a%20b', { x: '/' });
  assert.ok(answer.data.startsWith('GET /2016-08-15/proxy/js/web/a%20b?x=%2F'), answer.data);
  await client.updateTrigger('js', 'web', 'front', { triggerConfig: { authType: 'anonymous', methods: ['GET'] } });
  assert.strictEqual((await client.getTrigger('js', 'web', 'front')).data.triggerConfig.authType, 'anonymous');
  assert.strictEqual((await client.listTriggers('js', 'web')).data.triggers.length, 1);

  const other = (more) => new FC(ACCOUNT, { ...config, ...more });
  await refused('SignatureNotMatch', () => other({ accessKeySecret: 'wrong' }).getService('js'));
  await refused('InvalidAccessKeyID', () => other({ accessKeyID: 'nobody' }).getService('js'));

  await refused('FunctionNotEmpty', () => client.deleteFunction('js', 'web'));
  await client.deleteTrigger('js', 'web', 'front');
  await client.deleteFunction('js', 'web');
  await client.deleteAlias('js', 'live');
  await client.deleteVersion('js', version);
  await client.deleteService('js');
  await client.deleteService('js-a');
  await refused('ServiceNotFound', () => client.getService('js'));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
