"""Traffic of a route, from published shapes: who asks what and when, and how it is answered, with the ground truth.

It was written without a look at the code that judges such traffic, and none of that code's constants is chosen by it.
`generator.requests(Route(...), begin, end)` gives arrays, the same for the same arguments. Each slice (a day of routes
with at most 2 requests a second, an hour of others) is drawn from its own number, so that a span can be run in parts.
Second 0 is a Monday's midnight. Without `Route.changes` the same requests have the same answers until the first change.

Where the shapes come from:

- BurstGPT: https://github.com/HPMLL/BurstGPT, Wang et al. (arXiv 2401.17644), requests to Azure OpenAI: Gamma
  distributed gaps. 1.8 % of them in the first two months and 1.9 % in the next two failed (its lists with failures and
  without).
- ServeGen: https://github.com/alibaba/ServeGen at f891d118, Xiang et al. (arXiv 2505.09999): two weeks of rates, in
  steps of ten minutes, of each client of production models. What is cited here was computed from that data.
- Azure: https://github.com/Azure/AzurePublicDataset at b469a113, the traces of November 2023 (Patel et al., Splitwise,
  arXiv 2311.18677). What is cited here was computed from them.
- openai 3.57: the client itself; its constants are in `openai/_constants.py`.

| what | parameter | value | from |
|---|---|---|---|
| load by the hour | `arrivals.HOURS` | peak over trough 2.2 | ServeGen, m-small, mean of 14 days |
| load by the day | `arrivals.DAYS` | 0.62 at weekends | the slowest 3 of 14 days of m-large; weekend: assumed |
| slow bursts of load | `Route.sigma_load` | 0.27, lognormal | ServeGen, m-large, logarithm without the day's rhythm |
| their time constant | `arrivals.LOAD_MINUTES` | 60 | ServeGen, m-large: correlation 0.83 after 10 min, 0.54 after 60 |
| gaps | Gamma distribution | | BurstGPT; ServeGen fits it to 70 to 79 % of its clients' parts |
| their variation | `Route.burst` | 1.2 | ServeGen, m-large and m-small: median (p90: 6 to 7); Azure: 1.1 |
| callers | `Route.zipf` | 1.2 | Zipf's law: BurstGPT, of lengths; for callers and its exponent: assumed |
| largest caller | `Route.largest` | by Zipf | ServeGen has 16 % (m-large), 30 % (m-small), 52 % (m-mid) |
| runs of a caller | `Route.run` | 1.5 | that bursts come from few clients: ServeGen; the length: assumed |
| wandering share | `Route.sigma_*`, 15 min, 2 h | 0 | assumed: AR(1) in log-odds, to be set |
| callers that differ | `Route.sigma_callers` | 0.7 in log-odds | assumed |
| broken integrations | `outcomes.INTEGRATION_*` | 1 a month, an hour, 90 % bad | assumed; busy callers more often |
| errors | `Route.errors` | 0.5 % | assumed, below BurstGPT's 1.8 %, of which part is its incidents |
| incidents | `outcomes.INCIDENT_*` | 2 a month, median 90 s, 80 % of a node | assumed |
| retries | `generator.RETRIES`, delays | 2; 0.5 s doubled to 8 s, less up to 25 % | openai 3.57 |
| failed requests' time | `durations.REFUSAL` | median 0.3 s, at most 30 s | assumed |
| kinds of requests | `kinds.KINDS` | 35 % plain, others 15 to 20 % | assumed |
| templates | `Route.templates` | 5 %, of 8 bodies a caller and kind | assumed |
| first token | `Route.first` | median 0.3 s, sigma 0.6, tail 2 % of index 1.8 | assumed |
| the rest, streamed | `Route.rest` | median 4 s, sigma 0.86 | Azure, conversation: 129 tokens; 30 ms each: assumed |
| the rest, whole | `Route.whole` | median 2.5 s, sigma 0.85 | sigma: Azure, code; median: assumed |
| their tails | Pareto, 2 % of index 2.2 | | assumed; the paper of ServeGen fits inputs so |
| longest answer | `durations.LIMIT_S` | 600 s | openai 3.57: its default timeout |
| slower under load | `durations.LOAD_EXPONENT` | load to the power of 0.2 | assumed |
| runaway answers | `durations.RUNAWAY` | median 120 s, sigma 0.5 | assumed |
| nodes | | each request to one by chance, retries too | assumed |

A client whose engine hangs would give up after 600 s and ask again; here it waits for ever. Callers do not change what
they ask or how often when answers turn bad, save for the client's own retries. Incidents bring no other load than that.

`why` says what has made an answer bad, late or failed: a change's cause; NODE for an incident; CALLER for a broken
integration; DRIFT for an answer that would have been good at its caller's mean share; and NONE for all others, good and
bad.
"""
