import { afterEach, expect, test, vi } from 'vitest'
import { CallError, get, type DashboardData, type Table } from '../src/api'
import { dashboardOf, langOf, valueTitle, withLang } from '../src/i18n'
import { backoff, merged } from '../src/live'
import { fit } from '../src/stage'
import { columnFormat, errorOf, isEmpty, mainValue, measures } from '../src/table'

afterEach(() => vi.unstubAllGlobals())

const answering = (status: number, body: string) =>
  vi.stubGlobal('fetch', async () => new Response(body, { status }))

test('an answer is parsed', async () => {
  answering(200, '{"a":1}')
  expect(await get('/x')).toEqual({ a: 1 })
})

test.each([
  [404, '{"error":{"code":"not_found","message":"no such dashboard"}}', 'status', 'not_found'],
  [502, '<html>', 'status', null],
  [200, '<html>', 'format', null],
])('status %d with %s is a typed error', async (status, body, kind, code) => {
  answering(status, body)
  const error = await get('/x').catch((e: unknown) => e)
  expect(error).toBeInstanceOf(CallError)
  expect(error).toMatchObject({ kind, code })
})

test('a server that is away is a network error, an abort is the abort', async () => {
  vi.stubGlobal('fetch', () => Promise.reject(new TypeError('refused')))
  await expect(get('/x')).rejects.toMatchObject({ kind: 'network' })
  const stop = new AbortController()
  stop.abort()
  await expect(get('/x', stop.signal)).rejects.toBeInstanceOf(TypeError)
})

test('an event replaces the tiles it names', () => {
  const a: Table = { columns: [], rows: [[1]] }
  const b: Table = { columns: [], rows: [[2]] }
  const event: DashboardData = { dashboard: 'd', view: { version: 2 }, tiles: { b: { ...b, rows: [[3]] } } }
  const tiles = merged({ a, b }, event)
  expect(tiles.a).toBe(a)
  expect(tiles.b).toEqual({ columns: [], rows: [[3]] })
})

test('attempts grow rarer, up to a limit', () => {
  expect([0, 1, 2, 3, 4, 50].map(backoff)).toEqual([1000, 2000, 4000, 8000, 15000, 15000])
})

test('language and dashboard stand in the address', () => {
  expect(langOf('')).toBe('zh')
  expect(langOf('?lang=en')).toBe('en')
  expect(langOf('?lang=fr')).toBe('zh')
  expect(withLang('http://h/?a=1', 'en')).toBe('http://h/?a=1&lang=en')
  expect(withLang('http://h/?lang=en&a=1', 'zh')).toBe('http://h/?a=1')
  expect(dashboardOf('?dashboard=sales')).toBe('sales')
  expect(dashboardOf('')).toBe('executive')
})

test('codes have titles', () => {
  expect(valueTitle({ name: 'region' }, '浙江', 'en')).toBe('Zhejiang')
  expect(valueTitle({ name: 'region' }, '浙江', 'zh')).toBe('浙江')
  expect(valueTitle({ name: 'channel' }, 'mini_program', 'zh')).toBe('小程序')
  expect(valueTitle({ name: 'x', values: { a: { zh: '甲', en: 'A' } } }, 'a', 'en')).toBe('A')
})

test('the stage fits and is centred', () => {
  expect(fit(1920, 1080)).toEqual({ scale: 1, left: 0, top: 0 })
  expect(fit(3840, 2160)).toEqual({ scale: 2, left: 0, top: 0 })
  expect(fit(1920, 1280)).toEqual({ scale: 1, left: 0, top: 100 })
})

const table: Table = {
  columns: [
    { name: 'time', kind: 'time', format: 'date' },
    { name: 'gmv', kind: 'metric', format: 'fen' },
    { name: 'gmv_previous', kind: 'metric', format: 'fen' },
    { name: 'gmv_change', kind: 'metric', format: 'percent' },
  ],
  rows: [['2026-11-21', 5, 4, 0.25], ['2026-11-22', 7, 5, 0.4]],
}

test('a comparison is not a measure of its own', () => {
  expect(measures(table).map((m) => m.column.name)).toEqual(['gmv'])
})

test('the main value is the latest of a course, else the first', () => {
  expect(mainValue(table)).toBe('7')
  const total = { columns: table.columns.slice(1), rows: [[39800, null, null]] }
  expect(mainValue(total)).toBe('39800')
  expect(mainValue({ ...total, rows: [] })).toBe('')
})

test('empty is no rows, or nothing measured', () => {
  expect(isEmpty(table)).toBe(false)
  expect(isEmpty({ ...table, rows: [] })).toBe(true)
  expect(isEmpty({ ...table, rows: [['2026-11-22', null, null, null]] })).toBe(true)
})

test('formats of hand-written SQL follow from names and types', () => {
  expect(columnFormat({ name: 'goods_amount_fen', type: 'int64' })).toBe('fen')
  expect(columnFormat({ name: 'order_id', type: 'int64' })).toBe('text')
  expect(columnFormat({ name: 'paid_at', type: 'timestamp' })).toBe('timestamp')
  expect(columnFormat({ name: 'x', type: 'float64' })).toBe('number')
})

test('errors of tiles are texts', () => {
  expect(errorOf({ error: { code: 'unavailable', message: 'away' } })).toBe('away')
  expect(errorOf({ error: 'away' })).toBe('away')
  expect(errorOf(table)).toBeNull()
})
