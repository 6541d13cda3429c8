// Both languages, and how numbers and times are written.

const WORDS = {
  en: {
    functions: 'Functions', create: 'Create function', signOut: 'Sign out', signIn: 'Sign in', skip: 'Skip to content',
    theme: 'Theme', themeauto: 'System', themelight: 'Light', themedark: 'Dark', language: 'Language',
    lost: 'The connection to the host is lost; trying again…', loading: 'Loading…', retry: 'Retry',
    signInTitle: 'Sign in to the function host', keyId: 'Access key ID', keySecret: 'Access key secret',
    keyHint: 'Make a key on the host with “thaw key create”.', signingIn: 'Signing in…',
    name: 'Name', state: 'State', image: 'Image', instances: 'Instances', invocations: 'Invocations', errors: '{n} errors', oneError: '1 error',
    error: 'Error', coldStart: 'Last cold start', acceleration: 'Image acceleration',
    none: 'There are no functions yet.', noneHint: 'Create one from a container image, or deploy a template with “thaw fn deploy”.',
    noneFound: 'No function has this in its name or image.', filter: 'Filter by name or image', count: '{n} functions', oneFunction: '1 function',
    zero: 'Scaled to zero', starting: 'Starting', idle: 'Idle', busy: 'Busy', busyOf: '{busy} busy of {running}',
    statusNone: 'None', statusPreparing: 'Preparing', statusReady: 'Ready', statusFailed: 'Failed',
    queued: 'waiting for its turn', indexing: 'indexing the image', merging: 'merging layers', comparing: 'comparing layers', completing: 'completing the layers', guessing: 'guessing a working set', publishing: 'publishing', recording: 'recording a start', packing: 'packing the working set',
    again: 'tried again {when}', notRecorded: 'No start was recorded, the working set is a guess: {reason}',
    notPushed: 'The index stays on this host: {reason}',
    edit: 'Edit', delete: 'Delete', cancel: 'Cancel', save: 'Save', saving: 'Saving…', creating: 'Creating…',
    deleteAsk: 'Delete {name}?', deleteDetail: 'Its instances end, and its logs and figures are gone. The image stays in its registry.',
    deleted: '{name} is deleted', created: '{name} is created', saved: '{name} is saved',
    before: 'Original', after: 'Accelerated', beforeLong: 'Before acceleration', afterLong: 'After acceleration',
    overview: 'Overview', coldTitle: 'Cold starts', warmTitle: 'Warm invocations', median: 'median', of: 'n = {n}',
    noColdStarts: 'No cold start yet.', noWarm: 'No warm invocation yet.', nothingYet: 'none yet', faster: '{n}× faster', slower: '{n}× slower',
    loadRate: 'Loaded at start', loadRateHint: '{part} of {all} compressed', billed: 'GB-seconds', perThousand: '{n} per 1,000 invocations',
    waterfall: 'Waterfall of a cold start', whichStart: 'Which cold start', total: 'until it answered',
    span: 'Step', begin: 'Begin', took: 'Took', workingSet: 'Working set by directory', files: '{n} files', oneFile: '1 file',
    noInstances: 'No instance runs. The next request starts one.', instance: 'Instance', version: 'Version', started: 'Started by', requests: 'Requests', memory: 'Peak memory', old: 'earlier configuration',
    lazy: 'lazy start', full: 'full pull',
    invoke: 'Invoke', event: 'Event', invoking: 'Invoking…', result: 'Result', empty: '(empty)', log: 'Log tail', duration: '{n} ms', memoryUsed: '{n} MiB used', succeeded: 'Succeeded',
    logs: 'Logs', followLogs: 'Follow', noLogs: 'Nothing was printed yet.', logsEnd: 'the stream has ended',
    triggers: 'Triggers', addTrigger: 'Add trigger', noTriggers: 'No triggers: it is invoked through the API.', type: 'Type', configuration: 'Configuration', deleteTrigger: 'Delete trigger {name}?', deleteTriggerDetail: 'It does not invoke the function any more.',
    lastInvocations: 'Last invocations', when: 'When', request: 'Request', kind: 'Kind', cold: 'cold', warm: 'warm', ok: 'ok',
    service: 'Service', serviceHint: 'May be empty; it is made if it is not there.', description: 'Description', port: 'Port', portHint: 'Where the container serves HTTP.',
    command: 'Command', args: 'Arguments', listHint: 'One per line; empty: as the image has it.', memorySize: 'Memory (MiB)', cpu: 'CPUs', cpuHint: 'Empty: as many as go with the memory.', diskSize: 'Disk (MiB)', timeout: 'Timeout (s)', concurrency: 'Requests per instance', internet: 'Internet access', environment: 'Environment', environmentHint: 'NAME=VALUE, one per line.',
    environmentWrong: 'line {n} has no =', imageHint: 'Its tag is resolved now; save again to follow it.', accelerationHint: 'The function serves from the original image at once; its starts become faster when the acceleration is ready.',
    editTitle: 'Edit {name}', back: 'Functions', gone: 'This function does not exist.', resources: 'Resources', container: 'Container', more: 'More',
  },
  zh: {
    functions: '函数', create: '创建函数', signOut: '退出登录', signIn: '登录', skip: '跳到内容',
    theme: '主题', themeauto: '跟随系统', themelight: '浅色', themedark: '深色', language: '语言',
    lost: '与主机的连接已断开，正在重试…', loading: '加载中…', retry: '重试',
    signInTitle: '登录函数主机', keyId: 'AccessKey ID', keySecret: 'AccessKey Secret',
    keyHint: '在主机上运行 “thaw key create” 创建密钥。', signingIn: '正在登录…',
    name: '名称', state: '状态', image: '镜像', instances: '实例', invocations: '调用次数', errors: '{n} 次错误', oneError: '1 次错误',
    error: '错误', coldStart: '最近冷启动', acceleration: '镜像加速',
    none: '还没有函数。', noneHint: '用容器镜像创建一个函数，或运行 “thaw fn deploy” 部署模板。',
    noneFound: '没有名称或镜像匹配的函数。', filter: '按名称或镜像筛选', count: '{n} 个函数', oneFunction: '1 个函数',
    zero: '已缩容到零', starting: '启动中', idle: '空闲', busy: '忙碌', busyOf: '{running} 个中 {busy} 个忙碌',
    statusNone: '未启用', statusPreparing: '准备中', statusReady: '已就绪', statusFailed: '失败',
    queued: '排队等待', indexing: '正在为镜像建立索引', merging: '正在合并镜像层', comparing: '正在比较镜像层', completing: '正在补全镜像层', guessing: '正在推测工作集', publishing: '正在发布', recording: '正在记录一次启动', packing: '正在打包工作集',
    again: '{when}重试', notRecorded: '未能记录启动，工作集为推测值：{reason}',
    notPushed: '索引仅保存在本机：{reason}',
    edit: '编辑', delete: '删除', cancel: '取消', save: '保存', saving: '正在保存…', creating: '正在创建…',
    deleteAsk: '删除 {name}？', deleteDetail: '其实例将结束，日志与统计将被清除；镜像仍保留在仓库中。',
    deleted: '{name} 已删除', created: '{name} 已创建', saved: '{name} 已保存',
    before: '原始镜像', after: '加速镜像', beforeLong: '加速前', afterLong: '加速后',
    overview: '概览', coldTitle: '冷启动', warmTitle: '热调用', median: '中位数', of: 'n = {n}',
    noColdStarts: '还没有冷启动。', noWarm: '还没有热调用。', nothingYet: '暂无', faster: '快 {n} 倍', slower: '慢 {n} 倍',
    loadRate: '启动加载率', loadRateHint: '压缩后 {all} 中的 {part}', billed: 'GB-秒', perThousand: '每千次调用 {n}',
    waterfall: '冷启动瀑布图', whichStart: '选择冷启动', total: '直至应答',
    span: '步骤', begin: '开始', took: '耗时', workingSet: '工作集（按目录）', files: '{n} 个文件', oneFile: '1 个文件',
    noInstances: '当前没有实例，下一个请求会启动一个。', instance: '实例', version: '版本', started: '启动方式', requests: '请求数', memory: '内存峰值', old: '旧配置',
    lazy: '按需启动', full: '完整拉取',
    invoke: '调用', event: '事件', invoking: '正在调用…', result: '结果', empty: '（空）', log: '日志尾部', duration: '{n} 毫秒', memoryUsed: '使用内存 {n} MiB', succeeded: '成功',
    logs: '日志', followLogs: '实时跟踪', noLogs: '还没有输出。', logsEnd: '日志流已结束',
    triggers: '触发器', addTrigger: '添加触发器', noTriggers: '没有触发器：通过 API 调用。', type: '类型', configuration: '配置', deleteTrigger: '删除触发器 {name}？', deleteTriggerDetail: '它将不再调用该函数。',
    lastInvocations: '最近调用', when: '时间', request: '请求', kind: '类别', cold: '冷', warm: '热', ok: '成功',
    service: '服务', serviceHint: '可以为空；不存在时自动创建。', description: '描述', port: '端口', portHint: '容器提供 HTTP 服务的端口。',
    command: '启动命令', args: '参数', listHint: '每行一个；为空则使用镜像自带的。', memorySize: '内存 (MiB)', cpu: 'CPU 核数', cpuHint: '为空则按内存分配。', diskSize: '磁盘 (MiB)', timeout: '超时（秒）', concurrency: '单实例并发', internet: '允许访问公网', environment: '环境变量', environmentHint: '每行一个 NAME=VALUE。',
    environmentWrong: '第 {n} 行没有 =', imageHint: '标签会在此时解析；再次保存以跟随其变化。', accelerationHint: '函数立即以原始镜像提供服务；加速就绪后启动会更快。',
    editTitle: '编辑 {name}', back: '函数', gone: '该函数不存在。', resources: '资源', container: '容器', more: '更多',
  },
};

const locale = () => document.documentElement.lang;

/** `en` or `zh`. */
export const language = () => (locale().startsWith('zh') ? 'zh' : 'en');

/** A word or a sentence, with values in it. */
export function t(key, values = {}) {
  const text = WORDS[language()][key] ?? WORDS.en[key] ?? key;
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
  return when.toLocaleString(locale(), { ...day, hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
}

/** How long from now: `in 5 minutes`. */
export function fromNow(text) {
  const seconds = Math.max(0, Math.round((new Date(text) - Date.now()) / 1000));
  const words = new Intl.RelativeTimeFormat(locale(), { numeric: 'always' });
  return seconds < 90 ? words.format(seconds, 'second') : words.format(Math.round(seconds / 60), 'minute');
}
