// What the operator sees: live figures of this process, and what the lake says of tables.

import { onScopeDispose, ref, shallowRef } from 'vue'
import { CallError, get, post, type Table } from '../api'

export interface SourceStatus {
  name: string
  kind: string
  failing: string | null
  caught_up: boolean
  rows: number
  bytes: number
  transactions: number
  rows_per_second: number
  bytes_per_second: number
  lag_rows: number | null
  lag_bytes: number | null
  lag_seconds: number | null
}

export interface IngestStatus {
  sources: SourceStatus[]
  memory: {
    limit_bytes: number
    read_ahead_bytes: number
    staged_bytes: number
    staged_rows: number
  }
  cuts: number
  last_cut_ms: number
  uncommitted: string | null
}

export interface TableStatus {
  name: string
  state: string
  reason: string | null
  remedy: string | null
  since: string | null
  copied_rows: number
  quarantined: number
}

export interface Quarantined {
  table: string
  position: string
  op: string
  key: string | null
  reason: string
}

const EVERY_MS = 2_000

/** The newest of what could not be read; all of it is in the table. */
export const SHOWN = 50

const TABLES = `select source || '.' || table_name as name, state, reason, remedy, since,
    copied_rows, quarantined
  from system.ingest
  order by case state when 'stopped' then 0 when 'snapshotting' then 1 else 2 end, name`

const QUARANTINE = `select source || '.' || table_name as "table", position, op,
    row_key as "key", reason
  from system.quarantine order by committed_at desc nulls last, id desc limit ${SHOWN}`

/** The rows of an answer as objects by column name. */
export function objects<T>(table: Table): T[] {
  const names = table.columns.map((column) => column.name)
  return table.rows.map((row) => Object.fromEntries(row.map((cell, i) => [names[i], cell])) as T)
}

const select = async <T>(sql: string, signal: AbortSignal): Promise<T[]> =>
  objects<T>(await post<Table>('/api/v1/sql', { sql }, signal))

/** Live figures; none where another process takes the changes in. */
async function live(signal: AbortSignal): Promise<IngestStatus | null> {
  try {
    return await get<IngestStatus>('/api/v1/ingest', signal)
  } catch (error) {
    if (error instanceof CallError && error.status === 404) return null
    throw error
  }
}

/** Asks again and again while somebody looks. */
export function useIntake() {
  const status = shallowRef<IngestStatus | null>(null)
  const tables = shallowRef<TableStatus[]>([])
  const quarantined = shallowRef<Quarantined[]>([])
  const failure = shallowRef<CallError | null>(null)
  const asked = ref(false)
  const stopped = new AbortController()
  let timer: ReturnType<typeof setTimeout> | undefined

  async function ask() {
    try {
      const signal = stopped.signal
      const answers = await Promise.all([
        live(signal),
        select<TableStatus>(TABLES, signal),
        select<Quarantined>(QUARANTINE, signal),
      ])
      ;[status.value, tables.value, quarantined.value] = answers
      failure.value = null
      asked.value = true
    } catch (error) {
      if (stopped.signal.aborted) return
      if (!(error instanceof CallError)) throw error
      failure.value = error
    }
    timer = setTimeout(ask, EVERY_MS)
  }

  void ask()
  onScopeDispose(() => {
    stopped.abort()
    clearTimeout(timer)
  })
  return { status, tables, quarantined, failure, asked }
}
