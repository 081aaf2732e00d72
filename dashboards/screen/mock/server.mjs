// A stand-in for the query server while working on the screen: the definition as it is in the repo,
// made-up answers that move, and the built screen. `node mock/server.mjs [full|empty|error] [port]`
import { createServer } from 'node:http'
import { readFile } from 'node:fs/promises'
import { extname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'

const [mode = 'full', port = '8080'] = process.argv.slice(2)
const here = fileURLToPath(new URL('..', import.meta.url))
const definition = parse(
  await readFile(join(here, '../definitions/executive.yaml'), 'utf8'),
)

let seed = 7
const random = () => ((seed = (seed * 48271) % 2147483647) / 2147483647)
const HOUR = 3_600_000
const L = (zh, en) => ({ zh, en })
const metric = (name, format, zh, en) => ({ name, type: 'int64', kind: 'metric', format, label: L(zh, en) })
const dimension = (name, zh, en, values) => ({ name, type: 'utf8', kind: 'dimension', format: 'text', label: L(zh, en), values })
const time = (format) => ({ name: 'time', type: 'timestamp', kind: 'time', format, label: L('时间', 'Time') })
const compared = (name, format, zh, en) => [
  metric(name, format, zh, en),
  metric(`${name}_previous`, format, `${zh}（上期）`, `${en}, previous`),
  metric(`${name}_change`, 'percent', `${zh}（变化）`, `${en}, change`),
]
const iso = (ms) => new Date(ms).toISOString().replace('.000Z', 'Z')

const regions = ['广东', '浙江', '江苏', '山东', '四川', '河南', '湖北', '上海']
const orders = []
let gmv = 128_456_780
let paid = 6_214

function order() {
  const amount = 1990 + Math.floor(random() * 60000)
  gmv += amount
  paid += 1
  orders.unshift([iso(Date.now()), regions[Math.floor(random() * 8)], ['app', 'mini_program', 'h5', 'pharmacy'][Math.floor(random() * 4)], amount, 100000 + paid])
  orders.length = Math.min(orders.length, 8)
}
for (let i = 0; i < 8; i++) order()

function answers() {
  const now = Date.now()
  const midnight = Math.floor((now + 8 * HOUR) / (24 * HOUR)) * 24 * HOUR - 8 * HOUR
  const curve = (h) => Math.round(4_000_000 + 6_500_000 * Math.exp(-((h - 10.5) ** 2) / 8) + 8_000_000 * Math.exp(-((h - 20) ** 2) / 6))
  const hourNow = Math.floor((now - midnight) / HOUR)
  const share = (value, previous) => [value, previous, (value - previous) / previous]
  return {
    gmv_today: { columns: compared('gmv_paid_minute', 'fen', '成交额 GMV', 'GMV'), rows: [share(gmv, 117_300_000)] },
    orders_today: { columns: compared('orders_paid_minute', 'count', '支付订单数', 'Orders paid'), rows: [share(paid, 6_480)] },
    aov_today: { columns: compared('aov_minute', 'fen', '客单价', 'AOV'), rows: [share(gmv / paid, 18_900)] },
    net_sales_today: { columns: compared('net_sales_minute', 'fen', '净销售额', 'Net sales'), rows: [share(Math.round(gmv * 0.87), 101_000_000)] },
    refund_today: { columns: compared('refund_amount_minute', 'fen', '退款金额', 'Refunds'), rows: [share(3_456_700, 3_900_000)] },
    gmv_hours: {
      columns: [time('timestamp'), ...compared('gmv_paid_minute', 'fen', '成交额 GMV', 'GMV')],
      rows: Array.from({ length: 24 }, (_, h) => [iso(midnight + h * HOUR), h <= hourNow ? Math.round(curve(h) * 1.08) : 0, curve(h), null]),
    },
    gmv_minutes: {
      columns: [time('timestamp'), metric('gmv_paid_minute', 'fen', '成交额 GMV', 'GMV')],
      rows: Array.from({ length: 60 }, (_, m) => [iso(Math.floor(now / 60000) * 60000 - (59 - m) * 60000), 90_000 + Math.round(40_000 * Math.sin(m / 6) + random() * 30_000)]),
    },
    gmv_days: {
      columns: [time('date'), metric('gmv_paid', 'fen', '成交额 GMV', 'GMV')],
      rows: Array.from({ length: 30 }, (_, d) => [iso(midnight + 8 * HOUR - (29 - d) * 24 * HOUR).slice(0, 10), d === 29 ? gmv : 110_000_000 + Math.round(35_000_000 * Math.sin(d / 2.2) + 2_000_000 * d)]),
    },
    regions: { columns: [dimension('region', '省份', 'Region'), metric('gmv_paid', 'fen', '成交额 GMV', 'GMV')], rows: regions.map((r, i) => [r, Math.round(gmv * 0.21 * 0.8 ** i)]) },
    categories: { columns: [dimension('category', '品类', 'Category'), metric('category_gmv_paid', 'fen', '品类成交额', 'GMV')], rows: ['心脑血管', '糖尿病', '感冒呼吸', '医疗器械', '维生素', '皮肤'].map((c, i) => [c, Math.round(gmv * 0.33 * 0.66 ** i)]) },
    channels: {
      columns: [dimension('channel', '渠道', 'Channel', { app: L('App', 'App'), mini_program: L('小程序', 'Mini program'), h5: L('H5', 'H5'), pharmacy: L('门店', 'Pharmacy') }), metric('gmv_paid', 'fen', '成交额 GMV', 'GMV'), metric('orders_paid', 'count', '支付订单数', 'Orders')],
      rows: [['mini_program', Math.round(gmv * 0.44), 3000], ['app', Math.round(gmv * 0.31), 2000], ['pharmacy', Math.round(gmv * 0.15), 800], ['h5', Math.round(gmv * 0.1), 400]],
    },
    commission_today: { columns: [metric('commission_net', 'fen', '净佣金', 'Net'), metric('commission_accrued', 'fen', '应计佣金', 'Accrued'), metric('commission_reversed', 'fen', '冲回佣金', 'Reversed'), metric('commission_rate', 'percent', '佣金率', 'Rate')], rows: [[4_812_345, 5_010_000, 197_655, 0.0713]] },
    distributors: { columns: [dimension('distributor_name', '分销员', 'Distributor'), metric('commission_net', 'fen', '净佣金', 'Net')], rows: [0, 1, 2, 3, 4].map((i) => [`推广员 ${String(17 + i * 31).padStart(5, '0')}`, Math.round(420_000 * 0.8 ** i)]) },
    adherence: { columns: [metric('adherence_rate', 'percent', '用药依从率', 'Adherence rate'), metric('patients_measured', 'count', '可测量患者', 'Patients measured')], rows: [[0.783, 1244]] },
    control: { columns: [metric('control_rate', 'percent', '控制率', 'Control rate'), metric('patients_managed', 'count', '在管患者', 'Patients managed')], rows: [[0.652, 2010]] },
    dose_taking: { columns: [metric('dose_taking_rate', 'percent', '服药率', 'Dose-taking rate'), metric('doses_due', 'count', '应服次数', 'Doses due')], rows: [[0.914, 38211]] },
    live_orders: { columns: [{ name: 'paid_at', type: 'timestamp' }, { name: 'region', type: 'utf8' }, { name: 'channel', type: 'utf8' }, { name: 'goods_amount_fen', type: 'int64' }, { name: 'order_id', type: 'int64' }], rows: orders.slice() },
  }
}

let version = 41
function data() {
  const tiles = answers()
  for (const [id, tile] of Object.entries(tiles)) {
    if (mode === 'empty') {
      const total = tile.columns.every((c) => c.kind === 'metric')
      tile.rows = total ? [tile.columns.map((c) => (c.format === 'percent' || c.name.startsWith('aov') ? null : 0))] : []
    }
    if (mode === 'error' && id < 'd') tiles[id] = { error: { code: 'unavailable', message: 'the query ran out of time' } }
  }
  return { dashboard: 'executive', view: { version: version++, positions: {}, committed_at: new Date(Date.now() - 120).toISOString() }, tiles }
}

const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' }
createServer(async (request, response) => {
  const path = new URL(request.url, 'http://localhost').pathname
  const json = (body) => {
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify(body))
  }
  if (path === '/api/v1/dashboards/executive') return json(definition)
  if (path === '/api/v1/dashboards/executive/data') return json(data())
  if (path === '/api/v1/dashboards/executive/events') {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    const send = () => response.write(`event: data\ndata: ${JSON.stringify(data())}\n\n`)
    send()
    const timer = setInterval(() => {
      if (mode !== 'full') return
      order()
      send()
    }, 900)
    return request.on('close', () => clearInterval(timer))
  }
  const file = normalize(path === '/' ? '/index.html' : path)
  try {
    const body = await readFile(join(here, 'dist', file))
    response.writeHead(200, { 'content-type': types[extname(file)] ?? 'application/octet-stream' })
    response.end(body)
  } catch {
    response.writeHead(404)
    response.end()
  }
}).listen(Number(port), '127.0.0.1', () => console.log(`http://127.0.0.1:${port}/ (${mode})`))
