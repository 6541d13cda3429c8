// Both languages, and how numbers and times are written.

/** English, Chinese. */
const WORDS = {
  functions: ['Functions', '函数'],
  create: ['Create function', '创建函数'],
  signOut: ['Sign out', '退出登录'],
  signIn: ['Sign in', '登录'],
  skip: ['Skip to content', '跳到内容'],
  theme: ['Theme', '主题'],
  themeauto: ['System', '跟随系统'],
  themelight: ['Light', '浅色'],
  themedark: ['Dark', '深色'],
  language: ['Language', '语言'],
  lost: ['The connection to the host is lost; trying again…', '与主机的连接已断开，正在重试…'],
  loading: ['Loading…', '加载中…'],
  retry: ['Retry', '重试'],
  signInTitle: ['Sign in to the function host', '登录函数主机'],
  keyId: ['Access key ID', 'AccessKey ID'],
  keySecret: ['Access key secret', 'AccessKey Secret'],
  keyHint: ['Make a key on the host with “thaw key create”.', '在主机上运行 “thaw key create” 创建密钥。'],
  signingIn: ['Signing in…', '正在登录…'],
  name: ['Name', '名称'],
  state: ['State', '状态'],
  image: ['Image', '镜像'],
  instances: ['Instances', '实例'],
  invocations: ['Invocations', '调用次数'],
  errors: ['{n} errors', '{n} 次错误'],
  oneError: ['1 error', '1 次错误'],
  error: ['Error', '错误'],
  coldStart: ['Last cold start', '最近冷启动'],
  acceleration: ['Image acceleration', '镜像加速'],
  none: ['There are no functions yet.', '还没有函数。'],
  noneHint: [
    'Create one from a container image, or deploy a template with “thaw fn deploy”.',
    '用容器镜像创建一个函数，或运行 “thaw fn deploy” 部署模板。',
  ],
  noneFound: ['No function has this in its name or image.', '没有名称或镜像匹配的函数。'],
  filter: ['Filter by name or image', '按名称或镜像筛选'],
  count: ['{n} functions', '{n} 个函数'],
  oneFunction: ['1 function', '1 个函数'],
  zero: ['Scaled to zero', '已缩容到零'],
  starting: ['Starting', '启动中'],
  idle: ['Idle', '空闲'],
  busy: ['Busy', '忙碌'],
  busyOf: ['{busy} busy of {running}', '{running} 个中 {busy} 个忙碌'],
  statusNone: ['None', '未启用'],
  statusPreparing: ['Preparing', '准备中'],
  statusReady: ['Ready', '已就绪'],
  statusFailed: ['Failed', '失败'],
  queued: ['waiting for its turn', '排队等待'],
  indexing: ['indexing the image', '正在为镜像建立索引'],
  merging: ['merging layers', '正在合并镜像层'],
  comparing: ['comparing layers', '正在比较镜像层'],
  completing: ['completing the layers', '正在补全镜像层'],
  guessing: ['guessing a working set', '正在推测工作集'],
  publishing: ['publishing', '正在发布'],
  recording: ['recording a start', '正在记录一次启动'],
  packing: ['packing the working set', '正在打包工作集'],
  again: ['tried again {when}', '{when}重试'],
  notRecorded: [
    'No start was recorded, the working set is a guess: {reason}',
    '未能记录启动，工作集为推测值：{reason}',
  ],
  notPushed: ['The index stays on this host: {reason}', '索引仅保存在本机：{reason}'],
  edit: ['Edit', '编辑'],
  delete: ['Delete', '删除'],
  cancel: ['Cancel', '取消'],
  save: ['Save', '保存'],
  saving: ['Saving…', '正在保存…'],
  creating: ['Creating…', '正在创建…'],
  deleteAsk: ['Delete {name}?', '删除 {name}？'],
  deleteDetail: [
    'Its instances end, and its logs and figures are gone. The image stays in its registry.',
    '其实例将结束，日志与统计将被清除；镜像仍保留在仓库中。',
  ],
  deleted: ['{name} is deleted', '{name} 已删除'],
  created: ['{name} is created', '{name} 已创建'],
  saved: ['{name} is saved', '{name} 已保存'],
  before: ['Original', '原始镜像'],
  after: ['Accelerated', '加速镜像'],
  local: ['Local: the image was here', '本地:镜像已缓存'],
  beforeLong: ['Before acceleration', '加速前'],
  afterLong: ['After acceleration', '加速后'],
  overview: ['Overview', '概览'],
  coldTitle: ['Cold starts', '冷启动'],
  warmTitle: ['Warm invocations', '热调用'],
  median: ['median', '中位数'],
  of: ['n = {n}', 'n = {n}'],
  noColdStarts: ['No cold start yet.', '还没有冷启动。'],
  noWarm: ['No warm invocation yet.', '还没有热调用。'],
  nothingYet: ['none yet', '暂无'],
  faster: ['{n}× faster', '快 {n} 倍'],
  slower: ['{n}× slower', '慢 {n} 倍'],
  loadRate: ['Loaded at start', '启动加载率'],
  loadRateHint: ['{part} of {all} compressed', '压缩后 {all} 中的 {part}'],
  billed: ['GB-seconds', 'GB-秒'],
  perThousand: ['{n} per 1,000 invocations', '每千次调用 {n}'],
  waterfall: ['Waterfall of a cold start', '冷启动瀑布图'],
  whichStart: ['Which cold start', '选择冷启动'],
  total: ['until it answered', '直至应答'],
  span: ['Step', '步骤'],
  begin: ['Begin', '开始'],
  took: ['Took', '耗时'],
  workingSet: ['Working set by directory', '工作集（按目录）'],
  files: ['{n} files', '{n} 个文件'],
  oneFile: ['1 file', '1 个文件'],
  noInstances: ['No instance runs. The next request starts one.', '当前没有实例，下一个请求会启动一个。'],
  instance: ['Instance', '实例'],
  version: ['Version', '版本'],
  started: ['Started by', '启动方式'],
  requests: ['Requests', '请求数'],
  memory: ['Peak memory', '内存峰值'],
  old: ['earlier configuration', '旧配置'],
  lazy: ['lazy start', '按需启动'],
  full: ['full pull', '完整拉取'],
  invoke: ['Invoke', '调用'],
  event: ['Event', '事件'],
  invoking: ['Invoking…', '正在调用…'],
  result: ['Result', '结果'],
  empty: ['(empty)', '（空）'],
  log: ['Log tail', '日志尾部'],
  duration: ['{n} ms', '{n} 毫秒'],
  memoryUsed: ['{n} MiB used', '使用内存 {n} MiB'],
  succeeded: ['Succeeded', '成功'],
  logs: ['Logs', '日志'],
  followLogs: ['Follow', '实时跟踪'],
  noLogs: ['Nothing was printed yet.', '还没有输出。'],
  logsEnd: ['the stream has ended', '日志流已结束'],
  triggers: ['Triggers', '触发器'],
  addTrigger: ['Add trigger', '添加触发器'],
  noTriggers: ['No triggers: it is invoked through the API.', '没有触发器：通过 API 调用。'],
  type: ['Type', '类型'],
  configuration: ['Configuration', '配置'],
  deleteTrigger: ['Delete trigger {name}?', '删除触发器 {name}？'],
  deleteTriggerDetail: ['It does not invoke the function any more.', '它将不再调用该函数。'],
  lastInvocations: ['Last invocations', '最近调用'],
  when: ['When', '时间'],
  request: ['Request', '请求'],
  kind: ['Kind', '类别'],
  cold: ['cold', '冷'],
  warm: ['warm', '热'],
  ok: ['ok', '成功'],
  service: ['Service', '服务'],
  serviceHint: ['May be empty; it is made if it is not there.', '可以为空；不存在时自动创建。'],
  description: ['Description', '描述'],
  server: ['It is a web server', '容器是 Web Server'],
  serverHint: [
    'Else a container is started for each event, and finds it in FC_CUSTOM_CONTAINER_EVENT.',
    '否则每个事件启动一个容器，事件在环境变量 FC_CUSTOM_CONTAINER_EVENT 中。',
  ],
  port: ['Port', '端口'],
  portHint: ['Where the container serves HTTP.', '容器提供 HTTP 服务的端口。'],
  command: ['Command', '启动命令'],
  args: ['Arguments', '参数'],
  listHint: ['One per line; empty: as the image has it.', '每行一个；为空则使用镜像自带的。'],
  memorySize: ['Memory (MiB)', '内存 (MiB)'],
  cpu: ['CPUs', 'CPU 核数'],
  cpuHint: ['Empty: as many as go with the memory.', '为空则按内存分配。'],
  diskSize: ['Disk (MiB)', '磁盘 (MiB)'],
  timeout: ['Timeout (s)', '超时（秒）'],
  concurrency: ['Requests per instance', '单实例并发'],
  internet: ['Internet access', '允许访问公网'],
  environment: ['Environment', '环境变量'],
  environmentHint: ['NAME=VALUE, one per line.', '每行一个 NAME=VALUE。'],
  environmentWrong: ['line {n} has no =', '第 {n} 行没有 ='],
  imageHint: ['Its tag is resolved now; save again to follow it.', '标签会在此时解析；再次保存以跟随其变化。'],
  accelerationHint: [
    'The function serves from the original image at once; its starts become faster when the acceleration is ready.',
    '函数立即以原始镜像提供服务；加速就绪后启动会更快。',
  ],
  editTitle: ['Edit {name}', '编辑 {name}'],
  back: ['Functions', '函数'],
  gone: ['This function does not exist.', '该函数不存在。'],
  resources: ['Resources', '资源'],
  container: ['Container', '容器'],
  more: ['More', '更多'],
};

const locale = () => document.documentElement.lang;

/** `en` or `zh`. */
export const language = () => (locale().startsWith('zh') ? 'zh' : 'en');

/** A word or a sentence, with values in it. */
export function t(key, values = {}) {
  const text = WORDS[key]?.[language() === 'zh' ? 1 : 0] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(`thaw.${name}`);
    else localStorage.setItem(`thaw.${name}`, value);
  } catch {
    // Where nothing may be kept the choice holds until the page is left.
  }
}

/** Chooses a language, for this browser. */
export function speak(chosen) {
  document.documentElement.lang = chosen === 'zh' ? 'zh-CN' : 'en';
  keep('language', chosen);
}

/** `auto`, `light` or `dark`. */
export const theme = () => document.documentElement.dataset.theme ?? 'auto';

/** Chooses a theme, for this browser. */
export function paint(chosen) {
  if (chosen === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  keep('theme', chosen === 'auto' ? null : chosen);
}

/** A number with at most so many digits behind the point. */
export const number = (value, digits = 0) => value.toLocaleString(locale(), { maximumFractionDigits: digits });

/** So many of something: a word for one, and a word for any other number. */
export const many = (amount, one, others) => (amount === 1 ? t(one) : t(others, { n: number(amount) }));

/** A duration of milliseconds. */
export function time(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return '–';
  if (milliseconds >= 9995) return `${number(milliseconds / 1000, 1)} s`;
  if (milliseconds >= 999.5) return `${number(milliseconds / 1000, 2)} s`;
  return `${number(milliseconds, milliseconds < 10 ? 1 : 0)} ms`;
}

/** An amount of bytes. */
export function bytes(amount) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (amount >= 1024 && unit < units.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${number(amount, amount < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

/** The time of day of a moment, with its day where that is another. */
export function moment(text) {
  const when = new Date(text);
  const today = when.toDateString() === new Date().toDateString();
  const day = today ? {} : { month: 'short', day: 'numeric' };
  return when.toLocaleString(locale(), {
    ...day,
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hour12: false,
  });
}

/** How long from now: `in 5 minutes`. */
export function fromNow(text) {
  const seconds = Math.max(0, Math.round((new Date(text) - Date.now()) / 1000));
  const words = new Intl.RelativeTimeFormat(locale(), { numeric: 'always' });
  return seconds < 90 ? words.format(seconds, 'second') : words.format(Math.round(seconds / 60), 'minute');
}
