-- notifier.rfc3339: a time as it travels: RFC 3339, UTC, microseconds.
--   _at      a time, or null
--   returns  the text; null where there is no time, or none that the format can write (infinity, a year beyond 9999)
-- Used by: notifier.inbox.
create or replace function notifier.rfc3339(_at timestamptz) returns text
language sql stable parallel safe
return case when rfc3339._at >= '0001-01-01 00:00:00+00 AD'::timestamptz and rfc3339._at < '10000-01-01 00:00:00+00'::timestamptz
            then to_char(rfc3339._at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') end;
