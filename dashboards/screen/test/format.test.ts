import { describe, expect, test } from 'vitest'
import {
  ageText, axisText, calendarText, change, clockText, dayText, exactMoney, minuteText, money,
  toMillis, toNumber, writeText,
} from '../src/format'

describe('money', () => {
  test.each([
    [0, '0.00元', '¥0.00'],
    [1, '0.01元', '¥0.01'],
    [123_456, '1,234.56元', '¥1,234.56'],
    [999_999, '9,999.99元', '¥9,999.99'],
    [1_000_000, '1.00万元', '¥10.00K'],
    [12_345_678, '12.35万元', '¥123.46K'],
    [123_456_789, '123.46万元', '¥1.23M'],
    [1_234_567_890_12, '12.35亿元', '¥1.23B'],
    [-12_345_678, '-12.35万元', '-¥123.46K'],
  ])('%d fen', (fen, zh, en) => {
    expect(writeText(fen, 'fen', 'zh')).toBe(zh)
    expect(writeText(fen, 'fen', 'en')).toBe(en)
  })

  test('nothing is a dash, in every format', () => {
    expect(money(null, 'zh').digits).toBe('—')
    for (const format of ['fen', 'percent', 'count', 'number', 'days', 'timestamp'] as const) {
      expect(writeText(null, format, 'zh')).toBe('—')
    }
  })

  test('the flip number shows every fen', () => {
    expect(exactMoney(123_456_789)).toBe('1,234,567.89')
    expect(exactMoney(0)).toBe('0.00')
  })
})

test('counts, shares, days and plain numbers', () => {
  expect(writeText(9_999, 'count', 'zh')).toBe('9,999')
  expect(writeText(12_345, 'count', 'zh')).toBe('1.23万')
  expect(writeText(12_345, 'count', 'en')).toBe('12.35K')
  expect(writeText(0.7834, 'percent', 'en')).toBe('78.3%')
  expect(writeText(3, 'days', 'zh')).toBe('3天')
  expect(writeText(1.5, 'number', 'en')).toBe('1.50')
  expect(writeText('12.5', 'number', 'en')).toBe('12.50')
  expect(writeText('浙江', 'text', 'en')).toBe('浙江')
})

test('axis labels are short', () => {
  expect(axisText(150_000_00, 'fen', 'zh')).toBe('15万')
  expect(axisText(150_000_00, 'fen', 'en')).toBe('150K')
  expect(axisText(0.25, 'percent', 'en')).toBe('25%')
  expect(axisText(0, 'fen', 'zh')).toBe('0')
})

test('a change is as the server says it', () => {
  expect(change(0.1234)).toEqual({ text: '▲ 12.3%', direction: 'up' })
  expect(change(-0.05)).toEqual({ text: '▼ 5.0%', direction: 'down' })
  expect(change(0)).toEqual({ text: '0.0%', direction: 'flat' })
  expect(change(55)).toEqual({ text: '▲ >999%', direction: 'up' })
  expect(change(null)).toBeNull()
})

test('moments in any notation are the same moment, shown in China', () => {
  const at = Date.UTC(2026, 10, 21, 20, 15, 30)
  for (const text of [
    '2026-11-21T20:15:30Z', '2026-11-21T20:15:30', '2026-11-21 20:15:30', at * 1000, at, at / 1000,
    '2026-11-22T04:15:30+08:00', String(at * 1000),
  ]) {
    expect(toMillis(text)).toBe(at)
    expect(clockText(text)).toBe('04:15:30')
    expect(minuteText(text)).toBe('04:15')
  }
  expect(toMillis('soon')).toBeNull()
  expect(clockText(null)).toBe('—')
  expect(dayText('2026-11-22')).toBe('11-22')
  expect(calendarText(at, 'zh')).toContain('22')
  expect(calendarText(at, 'en')).toContain('Sun')
})

test('age is in the unit that says most', () => {
  expect(ageText(420, 'zh')).toBe('0.4 秒')
  expect(ageText(42_000, 'en')).toBe('42 s')
  expect(ageText(125_000, 'zh')).toBe('2 分')
  expect(ageText(7_300_000, 'en')).toBe('2 h')
  expect(ageText(-5, 'en')).toBe('0.0 s')
})

test('cells that are no numbers', () => {
  expect(toNumber('x')).toBeNull()
  expect(toNumber('')).toBeNull()
  expect(toNumber(true)).toBeNull()
  expect(toNumber('9007199254740993')).not.toBeNull()
})
