// Two languages; the choice stands in the address, so that a link keeps it.

import type { Label } from './api'

export type Lang = 'zh' | 'en'

export function langOf(search: string): Lang {
  return new URLSearchParams(search).get('lang') === 'en' ? 'en' : 'zh'
}

/** The address with another language, everything else kept. */
export function withLang(href: string, lang: Lang): string {
  const url = new URL(href)
  if (lang === 'en') url.searchParams.set('lang', 'en')
  else url.searchParams.delete('lang')
  return url.toString()
}

export function dashboardOf(search: string): string {
  return new URLSearchParams(search).get('dashboard') ?? 'executive'
}

const texts = {
  loading: { zh: '加载中', en: 'Loading' },
  empty: { zh: '暂无数据', en: 'No data yet' },
  failed: { zh: '暂时无法显示', en: 'Cannot be shown' },
  retry: { zh: '重试', en: 'Try again' },
  unreachable: { zh: '无法连接服务', en: 'The server cannot be reached' },
  live: { zh: '实时', en: 'Live' },
  connecting: { zh: '连接中', en: 'Connecting' },
  stale: { zh: '连接中断，正在重连', en: 'Disconnected, retrying' },
  fresh: { zh: '数据截至', en: 'Data as of' },
  ago: { zh: '前', en: ' ago' },
  version: { zh: '视图', en: 'View' },
  yesterday: { zh: '昨日同时', en: 'This time yesterday' },
  yesterday_short: { zh: '昨日同时', en: 'vs yesterday' },
  today_series: { zh: '今日', en: 'Today' },
  yesterday_series: { zh: '昨日', en: 'Yesterday' },
  switch: { zh: 'English', en: '中文' },
} satisfies Record<string, Label>

export type TextKey = keyof typeof texts

export const text = (key: TextKey, lang: Lang): string => texts[key][lang]

/** Titles of columns of hand-written SQL, which come without one. */
const columns: Record<string, Label> = {
  order_id: { zh: '订单号', en: 'Order' },
  paid_at: { zh: '时间', en: 'Time' },
  region: { zh: '省份', en: 'Region' },
  channel: { zh: '渠道', en: 'Channel' },
  goods_amount_fen: { zh: '金额', en: 'Amount' },
}

/** Titles of values of hand-written SQL. */
const values: Record<string, Record<string, Label>> = {
  channel: {
    app: { zh: 'App', en: 'App' },
    mini_program: { zh: '小程序', en: 'Mini program' },
    h5: { zh: 'H5', en: 'H5' },
    pharmacy: { zh: '门店', en: 'Pharmacy' },
  },
}

/** Provinces are stored by their Chinese short name. */
const provinces: Record<string, string> = {
  北京: 'Beijing', 天津: 'Tianjin', 上海: 'Shanghai', 重庆: 'Chongqing', 河北: 'Hebei',
  山西: 'Shanxi', 辽宁: 'Liaoning', 吉林: 'Jilin', 黑龙江: 'Heilongjiang', 江苏: 'Jiangsu',
  浙江: 'Zhejiang', 安徽: 'Anhui', 福建: 'Fujian', 江西: 'Jiangxi', 山东: 'Shandong',
  河南: 'Henan', 湖北: 'Hubei', 湖南: 'Hunan', 广东: 'Guangdong', 海南: 'Hainan',
  四川: 'Sichuan', 贵州: 'Guizhou', 云南: 'Yunnan', 陕西: 'Shaanxi', 甘肃: 'Gansu',
  青海: 'Qinghai', 台湾: 'Taiwan', 内蒙古: 'Inner Mongolia', 广西: 'Guangxi', 西藏: 'Tibet',
  宁夏: 'Ningxia', 新疆: 'Xinjiang', 香港: 'Hong Kong', 澳门: 'Macao',
}

export function columnTitle(
  column: { name: string; label?: Label | null },
  lang: Lang,
): string {
  return (column.label ?? columns[column.name])?.[lang] ?? column.name
}

export function valueTitle(
  column: { name: string; values?: Record<string, Label> | null },
  value: string,
  lang: Lang,
): string {
  const known = column.values?.[value] ?? values[column.name]?.[value]
  if (known) return known[lang]
  if (column.name === 'region' && lang === 'en') return provinces[value] ?? value
  return value
}
