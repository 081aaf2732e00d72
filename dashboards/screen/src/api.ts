// The HTTP contract of the query server, as in its /openapi.json, and the one way to call it.

export interface Label {
  zh: string
  en: string
}

export type TileKind =
  | 'number' | 'flip' | 'line' | 'bar' | 'rank' | 'map' | 'donut' | 'table' | 'gauge' | 'funnel'

/** What a value stands for; money is in fen, a percent is a share (0.25 is 25 %). */
export type Format =
  | 'fen' | 'count' | 'percent' | 'number' | 'days' | 'text' | 'boolean' | 'date' | 'timestamp'

export interface TileDefinition {
  id: string
  title: Label
  kind: TileKind
  format?: Format | null
  /** Place in a grid of 24 columns and 16 rows. */
  layout: { x: number; y: number; w: number; h: number }
}

export interface DashboardDefinition {
  id: string
  title: Label
  tiles: TileDefinition[]
}

export interface Column {
  name: string
  type?: string
  kind?: 'metric' | 'dimension' | 'time' | null
  format?: Format | null
  label?: Label | null
  /** Titles of the values, where they are codes. */
  values?: Record<string, Label> | null
}

export type Cell = string | number | boolean | null

export interface Table {
  columns: Column[]
  rows: Cell[][]
}

export interface ApiError {
  code: string
  message: string
}

export type TileAnswer = (Table & { error?: undefined | null }) | { error: ApiError | string }

/** The cut of the data that every tile of an answer was computed at. */
export interface View {
  version: number
  /** When the newest transaction in it was committed at its source. */
  committed_at?: string | number | null
}

export interface DashboardData {
  dashboard: string
  view: View
  tiles: Record<string, TileAnswer>
}

/** Why a call failed, by what can be done about it. */
export class CallError extends Error {
  constructor(
    readonly kind: 'network' | 'timeout' | 'status' | 'format',
    readonly status: number | null,
    readonly code: string | null,
    message: string,
  ) {
    super(message)
    this.name = 'CallError'
  }
}

const TIMEOUT_MS = 20_000

/** GETs JSON. Ends with a CallError, or with the AbortError of the caller's own signal. */
export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => call<T>(path, {}, signal)

/** POSTs JSON, as `get` gets it. */
export const post = <T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> =>
  call<T>(path, { method: 'POST', body: JSON.stringify(body) }, signal)

async function call<T>(path: string, init: RequestInit, signal?: AbortSignal): Promise<T> {
  const timer = new AbortController()
  const timeout = setTimeout(() => timer.abort(), TIMEOUT_MS)
  const forward = () => timer.abort()
  signal?.addEventListener('abort', forward)
  try {
    const answer = await fetch(path, {
      ...init,
      signal: timer.signal,
      headers: { accept: 'application/json', 'content-type': 'application/json' },
    })
    const text = await answer.text()
    if (!answer.ok) {
      const { code, message } = errorBody(text)
      throw new CallError('status', answer.status, code, message ?? `HTTP ${answer.status}`)
    }
    return parse<T>(text)
  } catch (error) {
    if (error instanceof CallError || signal?.aborted) throw error
    if (timer.signal.aborted) throw new CallError('timeout', null, null, 'no answer in time')
    throw new CallError('network', null, null, 'the server cannot be reached')
  } finally {
    clearTimeout(timeout)
    signal?.removeEventListener('abort', forward)
  }
}

export function parse<T>(text: string): T {
  try {
    return JSON.parse(text) as T
  } catch {
    throw new CallError('format', null, null, 'the answer is not JSON')
  }
}

function errorBody(text: string): { code: string | null; message: string | null } {
  try {
    const error = (JSON.parse(text) as { error?: Partial<ApiError> }).error
    return { code: error?.code ?? null, message: error?.message ?? null }
  } catch {
    return { code: null, message: null }
  }
}

const dashboardPath = (id: string) => `/api/v1/dashboards/${encodeURIComponent(id)}`

export const definition = (id: string, signal?: AbortSignal) =>
  get<DashboardDefinition>(dashboardPath(id), signal)

export const eventsUrl = (id: string) => `${dashboardPath(id)}/events`
