-- notifier.nearest: which of some words somebody meant, for the hint of an error.
--   _word         as it was typed
--   _candidates   what there is
--   returns       the candidate with the fewest letters changed (case does not count), or one that contains the word or is
--                 contained in it; null when nothing is close
-- Used by: whatever refuses a name.
create or replace function notifier.nearest(_word text, _candidates text[]) returns text
language plpgsql immutable as $$
declare
  _a         text := lower(left(nearest._word, 63));
  _b         text;
  _limit     integer := case when length(_a) <= 3 then 1 when length(_a) <= 6 then 2 else 3 end;
  _best      text;
  _least     integer := _limit + 1;
  _distance  integer;
  _diagonal  integer;
  _above     integer;
  _row       integer[];
  _candidate text;
begin
  foreach _candidate in array coalesce(nearest._candidates, '{}') loop
    _b := lower(left(_candidate, 63));
    if abs(length(_a) - length(_b)) < _least then
      -- Levenshtein's distance, one row of the table at a time.
      _row := array(select generate_series(0, length(_b)));
      for _i in 1 .. length(_a) loop
        _diagonal := _row[1];
        _row[1] := _i;
        for _j in 1 .. length(_b) loop
          _above := _row[_j + 1];
          _row[_j + 1] := least(_above + 1, _row[_j] + 1,
            _diagonal + case when substr(_a, _i, 1) = substr(_b, _j, 1) then 0 else 1 end);
          _diagonal := _above;
        end loop;
      end loop;
      _distance := _row[length(_b) + 1];
      if _distance < _least and _distance < length(_b) then
        _least := _distance;
        _best := _candidate;
      end if;
    end if;
    if _best is null and (length(_a) > 3 and position(_a in _b) > 0 or length(_b) > 3 and position(_b in _a) > 0) then
      _best := _candidate;   -- until one is really near
    end if;
  end loop;
  return _best;
end
$$;
