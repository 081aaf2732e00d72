import { expect, test } from 'vitest'
import type { Column, Table } from '../src/api'
import {
  barOption, blocks, businessMidnight, donutOption, everyStep, lineOption, parts,
} from '../src/charts/options'

const label = (text: string) => ({ zh: text, en: text })
const time = (format: 'timestamp' | 'date'): Column => ({ name: 'time', kind: 'time', format })
const gmv = (suffix = ''): Column => ({
  name: `gmv${suffix}`, kind: 'metric', format: suffix === '_change' ? 'percent' : 'fen', label: label('GMV'),
})

type Drawn = { name: string; data: [number, number | null][] }
type Option = {
  series: Drawn[]
  xAxis: { min?: number; max?: number; data?: string[] }
  tooltip: { renderMode: string; formatter: (items: unknown) => string }
}

type Bars = {
  xAxis: { data: string[]; axisLabel: { formatter: (name: string) => string } }
  series: { data: { value: [string, number | null] }[] }[]
}

const hours: Table = {
  columns: [time('timestamp'), gmv(), gmv('_previous'), gmv('_change')],
  rows: [
    ['2026-11-21T16:00:00Z', 300, 200, 0.5],
    ['2026-11-21T17:00:00Z', 400, 100, 3],
    ['2026-11-21T17:15:00Z', 500, 50, 9],
    ['2026-11-21T22:00:00Z', 0, 900, -1],
  ],
}
const now = Date.UTC(2026, 10, 21, 17, 30)

test('today ends now, yesterday goes on, and the day is a whole business day', () => {
  const option = lineOption(hours, { lang: 'zh', now }) as unknown as Option
  expect(option.series.map((s) => s.name)).toEqual(['昨日', '今日'])
  expect(option.series[0]?.data.map((p) => p[1])).toEqual([200, 100, 50, 900])
  expect(option.series[1]?.data.map((p) => p[1])).toEqual([300, 400, 500, null])
  expect(option.xAxis.min).toBe(Date.UTC(2026, 10, 21, 16))
  expect(option.xAxis.max).toBe(Date.UTC(2026, 10, 22, 16))
})

test('a course without comparison is one line on its own range', () => {
  const table = { columns: hours.columns.slice(0, 2), rows: hours.rows.map((r) => r.slice(0, 2)) }
  const option = lineOption(table, { lang: 'en', now }) as unknown as Option
  expect(option.series.map((s) => s.name)).toEqual(['GMV'])
  expect(option.xAxis.min).toBeUndefined()
})

test('a tooltip is text, drawn and not parsed', () => {
  const option = lineOption(hours, { lang: 'zh', now }) as unknown as Option
  expect(option.tooltip.renderMode).toBe('richText')
  const value: [number, number] = [Date.UTC(2026, 10, 21, 16), 12_345]
  expect(option.tooltip.formatter([{ seriesName: '今日', value }])).toBe('00:00\n今日  123.45元')
})

test('an axis of time has every step, and enough of them', () => {
  const day = 86_400_000
  expect(everyStep(0, 2 * day, 'date')).toHaveLength(30)
  expect(everyStep(0, 44 * day, 'date')).toHaveLength(45)
  expect(everyStep(0, 44 * day, 'date').at(-1)).toBe(44 * day)
  expect(everyStep(0, 1e13, 'timestamp')).toHaveLength(1440)
})

test('a day without rows is a gap among the bars', () => {
  const table: Table = {
    columns: [time('date'), gmv()],
    rows: [['2026-11-20', 5], ['2026-11-22', 7]],
  }
  const option = barOption(table, { lang: 'zh', now }) as unknown as Bars
  expect(option.xAxis.data).toHaveLength(30)
  expect(option.series[0]?.data.slice(-3).map((d) => d.value[1])).toEqual([5, null, 7])
  expect(option.xAxis.axisLabel.formatter(option.xAxis.data[29] ?? '')).toBe('11-22')
})

test('the first hours of a course are blocks, the running one up to now', () => {
  const hour = 3_600_000
  const course: [number, number | null][] = [[0, 5], [hour, 7], [2 * hour, null]]
  expect(blocks(course, 1.5 * hour)).toEqual([
    [0, 0], [0, 5], [hour, 5], [hour, 0],
    [hour, 0], [hour, 7], [1.5 * hour, 7], [1.5 * hour, 0],
    [2 * hour, null],
  ])
})

test('minutes end with the present one', () => {
  const table: Table = {
    columns: [time('timestamp'), gmv()],
    rows: [['2026-11-21T17:28:00.000000Z', 5]],
  }
  const option = barOption(table, { lang: 'zh', now }) as unknown as Bars
  expect(option.xAxis.data).toHaveLength(60)
  expect(option.series[0]?.data.slice(-3).map((d) => d.value[1])).toEqual([5, null, null])
  expect(option.xAxis.axisLabel.formatter(option.xAxis.data[59] ?? '')).toBe('01:30')
})

test('parts of a whole carry titles in both languages', () => {
  const table: Table = {
    columns: [
      { name: 'channel', kind: 'dimension', values: { app: { zh: '应用', en: 'App' } } },
      gmv(),
    ],
    rows: [['app', 3], [null, 1]],
  }
  expect(parts(table, 'zh').parts.map((p) => p.title)).toEqual(['应用', '未知'])
  const option = donutOption(table, { lang: 'en', now }) as unknown as {
    series: { data: { name: string; value: number }[] }[]
  }
  expect(option.series[0]?.data.map((d) => [d.name, d.value])).toEqual([['App', 3], ['Unknown', 1]])
})

test('an answer without the columns a chart needs draws nothing', () => {
  const table: Table = { columns: [{ name: 'x', type: 'text' }], rows: [['a']] }
  expect(lineOption(table, { lang: 'zh', now })).toEqual({})
  expect(barOption(table, { lang: 'zh', now })).toEqual({})
  expect(parts(table, 'zh').parts).toEqual([])
})

test('business midnight is midnight in China', () => {
  expect(businessMidnight(Date.UTC(2026, 10, 21, 15, 59))).toBe(Date.UTC(2026, 10, 20, 16))
  expect(businessMidnight(Date.UTC(2026, 10, 21, 16, 0))).toBe(Date.UTC(2026, 10, 21, 16))
})
