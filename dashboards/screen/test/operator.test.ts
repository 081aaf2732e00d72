import { describe, expect, it } from 'vitest'
import { objects } from '../src/operator/intake'
import { bytesText, countText, spanText, stateWord } from '../src/operator/words'

describe('the operator page', () => {
  it('reads rows by the names of their columns', () => {
    const columns = [{ name: 'name' }, { name: 'state' }]
    expect(objects({ columns, rows: [['mall.orders', 'streaming']] })).toEqual([
      { name: 'mall.orders', state: 'streaming' },
    ])
  })

  it('writes figures in the largest unit that says something', () => {
    expect([0, 1023, 1024, 3 * 2 ** 20].map(bytesText)).toEqual([
      '0 B', '1023 B', '1.0 KiB', '3.0 MiB',
    ])
    expect([0, 0.25, 1, 90, 7_200, 172_800].map(spanText)).toEqual([
      '0 ms', '250 ms', '1.0 s', '1.5 min', '2.0 h', '2.0 d',
    ])
    expect([countText(1234567), countText(null), spanText(null)]).toEqual(['1,234,567', '—', '—'])
  })

  it('shows a state it does not know as it is', () => {
    expect(stateWord('stopped', 'zh')).toBe('已停止')
    expect(stateWord('resting', 'en')).toBe('resting')
  })
})
