// Every number and time on the screen is written here, and nothing is calculated but its notation.

import type { Cell, Format } from './api'
import type { Lang } from './i18n'

/** What stands where there is no value. */
export const NOTHING = '—'

const grouped = (value: number, digits: number): string =>
  new Intl.NumberFormat('en-US', {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(value)

export function toNumber(cell: Cell | undefined): number | null {
  if (cell === null || cell === undefined || cell === '' || typeof cell === 'boolean') return null
  const value = typeof cell === 'number' ? cell : Number(cell)
  return Number.isFinite(value) ? value : null
}

/** A number and its unit, apart, so that the unit can be set smaller. */
export interface Written {
  prefix: string
  digits: string
  unit: string
}

type Scale = [from: number, divisor: number, unit: string]

const SCALES: Record<Lang, Scale[]> = {
  zh: [
    [1e8, 1e8, '亿'],
    [1e4, 1e4, '万'],
  ],
  en: [
    [1e9, 1e9, 'B'],
    [1e6, 1e6, 'M'],
    [1e4, 1e3, 'K'],
  ],
}

function scaled(value: number, lang: Lang, plainDigits: number): { digits: string; unit: string } {
  const scale = SCALES[lang].find(([from]) => Math.abs(value) >= from)
  if (!scale) return { digits: grouped(value, plainDigits), unit: '' }
  return { digits: grouped(value / scale[1], 2), unit: scale[2] }
}

/** Money: 元, 万元, 亿元 in Chinese; ¥, K, M, B in English. */
export function money(fen: number | null, lang: Lang): Written {
  if (fen === null) return { prefix: '', digits: NOTHING, unit: '' }
  const { digits, unit } = scaled(Math.abs(fen) / 100, lang, 2)
  const sign = fen < 0 ? '-' : ''
  return lang === 'zh'
    ? { prefix: '', digits: `${sign}${digits}`, unit: `${unit}元` }
    : { prefix: `${sign}¥`, digits, unit }
}

/** Money to the last fen, for the flip number. */
export function exactMoney(fen: number | null): string {
  return fen === null ? NOTHING : grouped(fen / 100, 2)
}

export function write(cell: Cell | undefined, format: Format, lang: Lang): Written {
  const plain = (digits: string): Written => ({ prefix: '', digits, unit: '' })
  if (cell === null || cell === undefined) return plain(NOTHING)
  const value = toNumber(cell)
  switch (format) {
    case 'fen':
      return money(value, lang)
    case 'percent':
      return value === null
        ? plain(NOTHING)
        : { prefix: '', digits: grouped(value * 100, 1), unit: '%' }
    case 'count': {
      if (value === null) return plain(NOTHING)
      return { prefix: '', ...scaled(value, lang, 0) }
    }
    case 'days':
      return value === null
        ? plain(NOTHING)
        : { prefix: '', digits: grouped(value, 0), unit: lang === 'zh' ? '天' : 'd' }
    case 'number':
      return plain(value === null ? NOTHING : grouped(value, Number.isInteger(value) ? 0 : 2))
    case 'date':
      return plain(dayText(cell))
    case 'timestamp':
      return plain(clockText(cell))
    default:
      return plain(String(cell))
  }
}

export function writeText(cell: Cell | undefined, format: Format, lang: Lang): string {
  const { prefix, digits, unit } = write(cell, format, lang)
  return `${prefix}${digits}${unit}`
}

/** An axis label: short, no decimals that say nothing. */
export function axisText(value: number, format: Format, lang: Lang): string {
  if (format === 'percent') return `${grouped(value * 100, 0)}%`
  const amount = format === 'fen' ? value / 100 : value
  const scale = SCALES[lang].find(([from]) => Math.abs(amount) >= from)
  const short = new Intl.NumberFormat('en-US', { maximumFractionDigits: 1 })
  return scale ? `${short.format(amount / scale[1])}${scale[2]}` : short.format(amount)
}

export interface Change {
  text: string
  direction: 'up' | 'down' | 'flat'
}

/** A change against the compared period, ▲ 12.3%; none when there is nothing to compare with. */
export function change(share: number | null): Change | null {
  if (share === null) return null
  const direction = share > 0 ? 'up' : share < 0 ? 'down' : 'flat'
  const arrow = { up: '▲', down: '▼', flat: '' }[direction]
  const size = Math.abs(share) * 100
  const digits = size >= 1000 ? '>999' : grouped(size, 1)
  return { text: `${arrow} ${digits}%`.trim(), direction }
}

/** A moment: ISO text (UTC when it has no offset), or a number of micro-, milli- or seconds. */
export function toMillis(cell: Cell | undefined): number | null {
  if (cell === null || cell === undefined || typeof cell === 'boolean') return null
  if (typeof cell === 'number' || /^-?\d+$/.test(cell)) {
    const value = Number(cell)
    const size = Math.abs(value)
    if (size >= 1e14) return value / 1000
    return size >= 1e11 ? value : value * 1000
  }
  const iso = cell.trim().replace(' ', 'T')
  const zoned = /([zZ]|[+-]\d\d:?\d\d)$/.test(iso) || !iso.includes('T') ? iso : `${iso}Z`
  const value = Date.parse(zoned)
  return Number.isNaN(value) ? null : value
}

const BUSINESS_ZONE = 'Asia/Shanghai'

const clock = (seconds: boolean) =>
  new Intl.DateTimeFormat('en-GB', {
    timeZone: BUSINESS_ZONE,
    hour: '2-digit',
    minute: '2-digit',
    ...(seconds ? { second: '2-digit' as const } : {}),
  })
const minuteClock = clock(false)
const secondClock = clock(true)

/** Time of day in China, 14:05:09. */
export function clockText(cell: Cell | undefined): string {
  const millis = toMillis(cell)
  return millis === null ? NOTHING : secondClock.format(millis)
}

/** Time of day in China, 14:05. */
export function minuteText(cell: Cell | undefined): string {
  const millis = toMillis(cell)
  return millis === null ? NOTHING : minuteClock.format(millis)
}

/** A business day, 11-22. */
export function dayText(cell: Cell | undefined): string {
  const match = /^\d{4}-(\d\d-\d\d)/.exec(String(cell ?? ''))
  return match?.[1] ?? NOTHING
}

/** The date and weekday at a moment in China. */
export function calendarText(millis: number, lang: Lang): string {
  return new Intl.DateTimeFormat(lang === 'zh' ? 'zh-CN' : 'en-GB', {
    timeZone: BUSINESS_ZONE,
    year: 'numeric',
    month: lang === 'zh' ? '2-digit' : 'short',
    day: '2-digit',
    weekday: 'short',
  }).format(millis)
}

/** How long ago, in the unit that says most. */
export function ageText(millis: number, lang: Lang): string {
  const seconds = Math.max(0, millis) / 1000
  const units: [number, string, string][] = [
    [86_400, ' 天', ' d'],
    [3_600, ' 小时', ' h'],
    [60, ' 分', ' min'],
    [1, ' 秒', ' s'],
  ]
  const [size, zh, en] = units.find(([from]) => seconds >= from) ?? [1, ' 秒', ' s']
  const value = size === 1 && seconds < 10 ? seconds.toFixed(1) : String(Math.floor(seconds / size))
  return `${value}${lang === 'zh' ? zh : en}`
}
