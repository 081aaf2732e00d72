// The operator page in two languages, and its figures in writing.

import type { Label } from '../api'
import { NOTHING } from '../format'
import type { Lang } from '../i18n'

const words = {
  title: { zh: '数据接入 · 运行状况', en: 'Ingest · how it is going' },
  screen: { zh: '经营大屏', en: 'The screen' },
  unreachable: { zh: '无法连接服务，正在重试', en: 'The server cannot be reached, trying again' },
  loading: { zh: '加载中', en: 'Loading' },
  sources: { zh: '数据源', en: 'Sources' },
  elsewhere: {
    zh: '数据由另一个进程接入，实时指标请在该进程查看；下表来自数据湖。',
    en: 'Another process takes the changes in: its live figures are there. What follows is from the lake.',
  },
  failing: { zh: '读取失败', en: 'Failing' },
  behind: { zh: '追赶中', en: 'Catching up' },
  current: { zh: '已同步', en: 'Up to date' },
  lag: { zh: '延迟', en: 'Lag' },
  waiting_rows: { zh: '待读行数', en: 'Rows waiting' },
  waiting_bytes: { zh: '待读字节', en: 'Bytes waiting' },
  rate: { zh: '吞吐', en: 'Throughput' },
  taken: { zh: '累计行数', en: 'Rows taken in' },
  transactions: { zh: '累计事务', en: 'Transactions' },
  memory: { zh: '内存', en: 'Memory' },
  read_ahead: { zh: '预读', en: 'read ahead' },
  staged: { zh: '待落盘', en: 'not in files yet' },
  of: { zh: '上限', en: 'limit' },
  cuts: { zh: '批次', en: 'Cuts' },
  last_cut: { zh: '最近一批耗时', en: 'Last cut took' },
  uncommitted: { zh: '提交失败，正在重试', en: 'Cannot commit, trying again' },
  tables: { zh: '数据表', en: 'Tables' },
  no_tables: { zh: '所有表均随源实时更新。', en: 'All tables follow their sources.' },
  table: { zh: '表', en: 'Table' },
  state: { zh: '状态', en: 'State' },
  why: { zh: '原因与处理办法', en: 'Reason and remedy' },
  copied: { zh: '已复制行数', en: 'Rows copied' },
  quarantined: { zh: '隔离', en: 'Quarantined' },
  snapshotting: { zh: '复制中', en: 'Copying' },
  streaming: { zh: '实时', en: 'Streaming' },
  stopped: { zh: '已停止', en: 'Stopped' },
  quarantine: { zh: '隔离区', en: 'Quarantine' },
  no_quarantine: { zh: '没有无法解析的变更。', en: 'There is no change that could not be read.' },
  position: { zh: '位置', en: 'Position' },
  key: { zh: '主键', en: 'Key' },
  reason: { zh: '原因', en: 'Reason' },
  switch: { zh: 'English', en: '中文' },
} satisfies Record<string, Label>

export type Word = keyof typeof words

export const word = (key: Word, lang: Lang): string => words[key][lang]

/** What the lake calls a state. */
export const stateWord = (state: string, lang: Lang): string =>
  state in words ? word(state as Word, lang) : state

const BYTES: [number, string][] = [
  [2 ** 30, 'GiB'],
  [2 ** 20, 'MiB'],
  [2 ** 10, 'KiB'],
]

export function bytesText(bytes: number | null): string {
  if (bytes === null) return NOTHING
  const unit = BYTES.find(([from]) => bytes >= from)
  return unit ? `${(bytes / unit[0]).toFixed(1)} ${unit[1]}` : `${Math.round(bytes)} B`
}

export const countText = (count: number | null): string =>
  count === null ? NOTHING : new Intl.NumberFormat('en-US').format(Math.round(count))

/** A time span, in the largest unit that says something. */
export function spanText(seconds: number | null): string {
  if (seconds === null) return NOTHING
  if (seconds >= 86_400) return `${(seconds / 86_400).toFixed(1)} d`
  if (seconds >= 3_600) return `${(seconds / 3_600).toFixed(1)} h`
  if (seconds >= 60) return `${(seconds / 60).toFixed(1)} min`
  return seconds >= 1 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds * 1_000)} ms`
}
