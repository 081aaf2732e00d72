// Answers into ECharts options. Pure: the same rows, language and moment give the same picture.

import type { EChartsCoreOption } from 'echarts/core'
import type { Cell, Column, Format, Table } from '../api'
import { axisText, clockText, dayText, minuteText, toMillis, toNumber, writeText } from '../format'
import { text, valueTitle, type Lang } from '../i18n'
import { axis, columnFormat, indexOf, measures } from '../table'

export const PALETTE = [
  '#4cc9f0', '#4d7dff', '#2dd4bf', '#8b7bff', '#f5b84b', '#f2788f', '#7dd3a8', '#8aa0c6',
]
const MUTED = '#7f93b8'
const PREVIOUS = '#5f7399'
const GRID_LINE = 'rgba(122, 152, 205, 0.13)'
const AXIS_LINE = 'rgba(122, 152, 205, 0.28)'
const FONT = 12
const HOUR_MS = 3_600_000
const DAY_MS = 86_400_000
const CHINA_MS = 8 * 3_600_000

/** What a picture depends on beside its rows. */
export interface Setting {
  lang: Lang
  /** The moment now, in milliseconds: a course of today ends here. */
  now: number
}

type Point = [number | string, number | null]

function tooltip(format: Format, lang: Lang, heading: (x: number | string) => string) {
  return {
    trigger: 'axis',
    renderMode: 'richText',
    confine: true,
    backgroundColor: 'rgba(9, 23, 48, 0.94)',
    borderColor: 'rgba(110, 160, 255, 0.35)',
    textStyle: { color: '#dbe7ff', fontSize: FONT },
    axisPointer: { lineStyle: { color: AXIS_LINE } },
    formatter: (items: { seriesName: string; value: Point }[]) => {
      const lines = items
        .filter((item) => item.value[1] !== null)
        .map((item) => `${item.seriesName}  ${writeText(item.value[1], format, lang)}`)
      const first = items[0]
      return first ? [heading(first.value[0]), ...lines].join('\n') : ''
    },
  }
}

function valueAxis(format: Format, lang: Lang) {
  return {
    type: 'value',
    splitNumber: 4,
    minInterval: format === 'count' ? 1 : 0,
    axisLabel: {
      color: MUTED,
      fontSize: FONT,
      formatter: (value: number) => axisText(value, format, lang),
    },
    splitLine: { lineStyle: { color: GRID_LINE } },
  }
}

/** A screen is always arriving: only changes move, not the first picture. */
const motion = { animationDuration: 0, animationDurationUpdate: 300 }

/** The canvas does not inherit the page's font. */
const textStyle = {
  fontFamily:
    "'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', 'Noto Sans SC', 'DejaVu Sans', sans-serif",
}

const grid = { left: 8, right: 18, top: 30, bottom: 4, containLabel: true }

function area(color: string) {
  return {
    color: {
      type: 'linear', x: 0, y: 0, x2: 0, y2: 1,
      colorStops: [
        { offset: 0, color: `${color}55` },
        { offset: 1, color: `${color}03` },
      ],
    },
  }
}

/** Milliseconds of the business midnight before a moment. */
export function businessMidnight(millis: number): number {
  return Math.floor((millis + CHINA_MS) / DAY_MS) * DAY_MS - CHINA_MS
}

/** A measure over time; with a comparison, also the compared course behind it. */
export function lineOption(table: Table, { lang, now }: Setting): EChartsCoreOption {
  const time = axis(table)
  const measure = measures(table)[0]
  if (!time || !measure) return {}
  const format = columnFormat(measure.column)
  const previous = indexOf(table, `${measure.column.name}_previous`)
  const courses = (index: number, until: number): Point[] =>
    table.rows.map((row): Point => {
      const at = toMillis(row[time.index]) ?? 0
      return [at, at <= until ? toNumber(row[index]) : null]
    })
  const series: object[] = []
  if (previous >= 0) {
    series.push({
      id: 'previous',
      name: text('yesterday_series', lang),
      type: 'line',
      smooth: 0.25,
      smoothMonotone: 'x',
      symbol: 'circle',
      symbolSize: 4,
      showSymbol: table.rows.length < 3,
      data: courses(previous, Infinity),
      lineStyle: { color: PREVIOUS, width: 1.5, type: 'dashed' },
      itemStyle: { color: PREVIOUS },
      animation: false,
    })
  }
  const main = PALETTE[0] ?? MUTED
  const course = courses(measure.index, now)
  // A line needs a few points; the first hours of a course are blocks as wide as their hour. (Bars
  // will not do: on an axis of time the engine widens the axis by half a bar at either end.)
  const few = course.filter(([, value]) => value !== null).length < 3
  const current = few ? blocks(course, now) : course
  series.push({
    id: 'current',
    name: previous >= 0 ? text('today_series', lang) : measure.column.label?.[lang],
    type: 'line',
    smooth: few ? false : 0.25,
    smoothMonotone: 'x',
    symbol: 'circle',
    symbolSize: 6,
    // Of a long course only the pointer's place is marked.
    showSymbol: !few && table.rows.length <= 24,
    data: current,
    lineStyle: { color: main, width: 2.5 },
    itemStyle: { color: main },
    areaStyle: area(main),
  })
  const first = toMillis(table.rows[0]?.[time.index])
  const midnight = previous >= 0 && first !== null ? businessMidnight(first) : null
  return {
    ...motion,
    textStyle,
    grid,
    legend: {
      show: previous >= 0,
      top: 0,
      right: 8,
      itemWidth: 14,
      itemHeight: 3,
      icon: 'rect',
      textStyle: { color: MUTED, fontSize: FONT },
    },
    tooltip: tooltip(format, lang, (x) => minuteText(x)),
    xAxis: {
      type: 'time',
      ...(midnight === null ? {} : { min: midnight, max: midnight + DAY_MS }),
      axisLine: { lineStyle: { color: AXIS_LINE } },
      axisTick: { show: false },
      axisLabel: {
        color: MUTED,
        fontSize: FONT,
        hideOverlap: true,
        formatter: (at: number) =>
          midnight !== null && at >= midnight + DAY_MS ? '24:00' : minuteText(at),
      },
      splitLine: { show: false },
    },
    yAxis: valueAxis(format, lang),
    series,
  }
}

/** Each value as a block from its moment to an hour later, or to the next moment or now if earlier. */
export function blocks(course: readonly Point[], now: number): Point[] {
  return course.flatMap(([moment, value], i): Point[] => {
    const at = Number(moment)
    if (value === null) return [[at, null]]
    const next = Number(course[i + 1]?.[0] ?? Infinity)
    const end = Math.max(at, Math.min(next, at + HOUR_MS, now))
    return [[at, 0], [at, value], [end, value], [end, 0]]
  })
}

/** A step of a time axis: its length, how many are shown at least, how many at most. */
const STEPS = {
  date: { length: DAY_MS, least: 30, most: 400 },
  timestamp: { length: 60_000, least: 60, most: 1440 },
}

/**
 * Every step up to `last`, from `first` or from so long ago that the axis does not look torn off:
 * a step without rows is a gap, and not left out.
 */
export function everyStep(first: number, last: number, step: keyof typeof STEPS): number[] {
  const { length, least, most } = STEPS[step]
  const count = Math.min(most, Math.max(least, Math.floor((last - first) / length) + 1))
  return Array.from({ length: count }, (_, i) => last - (count - 1 - i) * length)
}

/** A measure by day, minute or dimension, as bars; of a course of time the latest stands out. */
export function barOption(table: Table, { lang, now }: Setting): EChartsCoreOption {
  const by = axis(table)
  const measure = measures(table)[0]
  if (!by || !measure) return {}
  const format = columnFormat(measure.column)
  const step = by.column.kind !== 'time' ? null : columnFormat(by.column) === 'date' ? 'date' : 'timestamp'
  const values = new Map<number | string, Cell>()
  let names: (number | string)[]
  if (step) {
    for (const row of table.rows) {
      const at = toMillis(row[by.index])
      if (at !== null) values.set(at, row[measure.index] ?? null)
    }
    const moments = [...values.keys()] as number[]
    const latest = step === 'timestamp' ? Math.floor(now / 60_000) * 60_000 : -Infinity
    names = everyStep(Math.min(...moments), Math.max(...moments, latest), step)
  } else {
    for (const row of table.rows) values.set(String(row[by.index]), row[measure.index] ?? null)
    names = [...values.keys()]
  }
  const written = (name: string | number) => {
    if (step === 'timestamp') return minuteText(Number(name))
    if (step === 'date') return dayText(new Date(Number(name)).toISOString())
    return valueTitle(by.column, String(name), lang)
  }
  const bright = PALETTE[0] ?? MUTED
  const calm = PALETTE[1] ?? MUTED
  return {
    ...motion,
    textStyle,
    grid: { ...grid, top: 16 },
    tooltip: tooltip(format, lang, written),
    xAxis: {
      type: 'category',
      data: names.map(String),
      axisLine: { lineStyle: { color: AXIS_LINE } },
      axisTick: { show: false },
      axisLabel: { color: MUTED, fontSize: FONT, hideOverlap: true, formatter: written },
    },
    yAxis: valueAxis(format, lang),
    series: [
      {
        id: 'current',
        name: measure.column.label?.[lang] ?? measure.column.name,
        type: 'bar',
        barMaxWidth: 20,
        data: names.map((name, i) => {
          const latest = step !== null && i === names.length - 1
          return {
            value: [String(name), toNumber(values.get(name))],
            itemStyle: {
              borderRadius: [3, 3, 0, 0],
              color: latest ? bright : calm,
              opacity: latest ? 1 : 0.8,
            },
          }
        }),
      },
    ],
  }
}

/** One part of a whole: its title, its value as it came, and its colour. */
export interface Part {
  title: string
  value: Cell
  color: string
}

/** The parts of a donut, also the source of its legend. */
export function parts(table: Table, lang: Lang): { format: Format; parts: Part[] } {
  const by = axis(table)
  const measure = measures(table)[0]
  if (!by || !measure) return { format: 'number', parts: [] }
  return {
    format: columnFormat(measure.column),
    parts: table.rows.map((row, i) => ({
      title: titleOf(by.column, row[by.index], lang),
      value: row[measure.index] ?? null,
      color: PALETTE[i % PALETTE.length] ?? MUTED,
    })),
  }
}

export function titleOf(column: Column, cell: Cell | undefined, lang: Lang): string {
  if (cell === null || cell === undefined || cell === '') return lang === 'zh' ? '未知' : 'Unknown'
  switch (columnFormat(column)) {
    case 'timestamp':
      return clockText(cell)
    case 'date':
      return dayText(cell)
    default:
      return valueTitle(column, String(cell), lang)
  }
}

export function donutOption(table: Table, { lang }: Setting): EChartsCoreOption {
  const { format, parts: slices } = parts(table, lang)
  return {
    ...motion,
    textStyle,
    tooltip: {
      trigger: 'item',
      renderMode: 'richText',
      confine: true,
      backgroundColor: 'rgba(9, 23, 48, 0.94)',
      borderColor: 'rgba(110, 160, 255, 0.35)',
      textStyle: { color: '#dbe7ff', fontSize: FONT },
      formatter: (item: { name: string; value: number; percent: number }) =>
        `${item.name}\n${writeText(item.value, format, lang)}  ${item.percent}%`,
    },
    series: [
      {
        id: 'parts',
        type: 'pie',
        radius: ['58%', '86%'],
        center: ['50%', '50%'],
        padAngle: 1.5,
        itemStyle: { borderRadius: 3 },
        label: { show: false },
        emphasis: { scaleSize: 4 },
        data: slices.map((slice) => ({
          name: slice.title,
          value: toNumber(slice.value),
          itemStyle: { color: slice.color },
        })),
      },
    ],
  }
}
