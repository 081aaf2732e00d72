// Opens the executive screen in Chromium, buys something, and waits for the GMV tile to follow; then
// looks at the operator's page.
// usage: node screen.mjs SCREEN_URL SERVICES_URL SCREENSHOT_FOLDER
import { chromium } from 'playwright-core'

const [screen, services, shots] = process.argv.slice(2)
const flags = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
]

async function call(path, body) {
  const answer = await fetch(services + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  const text = await answer.text()
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}: ${text}`)
  return JSON.parse(text)
}

async function buy() {
  const pharmacy = await call('/mall/pharmacies', { name: '药房 001', region: '浙江' })
  const product = await call('/mall/products', {
    name: '血压计', kind: 'device', category: '器械', unit_price_fen: 19900, return_policy: 'seven_day', tracks_stock: false,
  })
  const order = await call('/mall/orders', {
    person_id: 1, pharmacy_id: pharmacy.pharmacy_id, channel: 'app',
    lines: [{ product_id: product.product_id, quantity: 2 }],
  })
  const started = performance.now()
  await call(`/mall/orders/${order.order_id}/pay`, { method: 'wechat' })
  return started
}

const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: flags })
try {
  const page = await browser.newPage({ viewport: { width: 1920, height: 1080 } })
  const complaints = []
  page.on('console', (m) => {
    if (m.type() === 'error' || m.type() === 'warning') complaints.push(m.text())
  })
  page.on('pageerror', (e) => complaints.push(String(e)))
  page.on('requestfailed', (r) => {
    // Leaving the page ends its event stream; that is not a failure.
    if (!r.url().endsWith('/events')) complaints.push(`${r.url()}: ${r.failure()?.errorText}`)
  })

  await page.goto(screen, { waitUntil: 'load' })
  const tiles = page.locator('[data-tile]')
  await tiles.first().waitFor()
  const count = await tiles.count()
  if (count < 8) throw new Error(`the screen has ${count} tiles, not at least eight`)

  const value = page.locator('[data-tile="gmv_today"] [data-value]').first()
  await value.waitFor()
  const before = await value.getAttribute('data-value')
  const paid = await buy()
  await page.waitForFunction(
    (was) => document.querySelector('[data-tile="gmv_today"] [data-value]')?.getAttribute('data-value') !== was,
    before,
    { timeout: 10_000 },
  )
  const after = await value.getAttribute('data-value')
  console.log(`gmv_today went from ${before} to ${after} in ${Math.round(performance.now() - paid)} ms`)
  if (after !== '39800') throw new Error(`gmv_today shows ${after}, not 39800 fen`)

  await page.waitForTimeout(1500) // the flip numbers and charts come to rest before the picture
  await page.screenshot({ path: `${shots}/zh.png` })
  await page.goto(`${screen}/?lang=en`, { waitUntil: 'load' })
  await value.waitFor()
  await page.waitForTimeout(1500)
  await page.screenshot({ path: `${shots}/en.png` })
  await page.setViewportSize({ width: 390, height: 844 })
  await page.waitForTimeout(500)
  await page.screenshot({ path: `${shots}/phone.png`, fullPage: true })

  await page.setViewportSize({ width: 1280, height: 900 })
  await page.goto(`${screen}/operator?lang=en`, { waitUntil: 'load' })
  const sources = page.locator('.operator article.current')
  await sources.nth(2).waitFor()
  const taken = await sources.locator('dd').allTextContents()
  if (!taken.some((text) => Number(text) > 0)) throw new Error(`nothing is taken in: ${taken}`)
  await page.screenshot({ path: `${shots}/operator.png`, fullPage: true })
  if (complaints.length > 0) throw new Error(`the console is not empty:\n${complaints.join('\n')}`)
} finally {
  await browser.close()
}
