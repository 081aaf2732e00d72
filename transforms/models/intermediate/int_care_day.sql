select max(day) as as_of_day
from (
    select max(dispensed_on) as day from chronic_care.dispensing
    union all
    select business_day(max(scheduled_at)) as day from chronic_care.dose_event
) seen
