-- The ten events of the parking application. Each is one query over what a statement changed: `changed` has the new columns
-- and the old row as `was`. Run it again as often as you like: a definition replaces the one of the same name.

-- 1. Five minutes before a booking ends. The service looks at the row again at that time: a booking that was moved is told
--    later, one that was cancelled not at all.
select notifier.define_timer(
  name    => 'booking.expiring',
  source  => 'public.booking',
  due     => $$ end_time - interval '5 minutes' $$,
  until   => $$ end_time $$,
  level   => 'warning',
  message => 'Your booking #{booking_id} ends at {end_time:HH24:MI}.',
  query   => $$
    select user_id, id as booking_id, end_time
    from   due
    where  lower(status) = 'booked'
  $$);

-- 2. When it ends.
select notifier.define_timer(
  name    => 'booking.expired',
  source  => 'public.booking',
  due     => $$ end_time $$,
  until   => $$ end_time + interval '1 day' $$,
  level   => 'info',
  message => 'Your booking #{booking_id} has ended.',
  query   => $$
    select user_id, id as booking_id, end_time
    from   due
    where  lower(status) = 'booked'
  $$);

-- 3. A renewal was paid, whether the payment arrives as such or becomes so later. On insert `was` is null.
select notifier.define_event(
  name      => 'booking.renewed',
  source    => 'public.payment',
  operation => 'insert or update',
  level     => 'success',
  message   => 'Booking #{booking_id} is renewed.',
  query     => $$
    select user_id, booking_id, amount
    from   changed
    where  is_renewal
      and  lower(status) = 'success' and lower((was).status) is distinct from 'success'
  $$);

-- 4. A renewal failed.
select notifier.define_event(
  name      => 'booking.renewal_failed',
  source    => 'public.payment',
  operation => 'insert or update',
  level     => 'error',
  message   => 'The renewal of booking #{booking_id} failed. Please pay again.',
  query     => $$
    select user_id, booking_id, amount
    from   changed
    where  is_renewal
      and  lower(status) = 'failed' and lower((was).status) is distinct from 'failed'
  $$);

-- 5. A booking was completed after its time.
select notifier.define_event(
  name      => 'booking.completed',
  source    => 'public.booking',
  operation => 'update',
  level     => 'warning',
  message   => 'Booking #{booking_id} was completed after its end at {end_time:HH24:MI}.',
  query     => $$
    select user_id, id as booking_id, end_time
    from   changed
    where  lower(status) = 'completed' and lower((was).status) is distinct from 'completed'
      and  end_time < now()
  $$);

-- 6. An administrator cancelled a booking.
select notifier.define_event(
  name      => 'booking.declined',
  source    => 'public.booking',
  operation => 'update',
  level     => 'warning',
  message   => 'Booking #{booking_id} was declined by the admin.',
  query     => $$
    select user_id, id as booking_id
    from   changed
    where  lower(status) = 'cancelled_by_admin' and lower((was).status) is distinct from 'cancelled_by_admin'
  $$);

-- 7. Cash was counted.
select notifier.define_event(
  name      => 'payment.verified',
  source    => 'public.payment',
  operation => 'update',
  level     => 'success',
  message   => 'Cash payment verified.',
  query     => $$
    select user_id, id as payment_id, booking_id, amount
    from   changed
    where  lower(method) = 'cash'
      and  lower(status) = 'verified' and lower((was).status) is distinct from 'verified'
  $$);

-- 8. A slot was booked: told to the owner of the lot, whom a join finds.
select notifier.define_event(
  name      => 'booking.created',
  source    => 'public.booking',
  operation => 'insert',
  level     => 'info',
  message   => 'New booking #{booking_id} of slot {slot} at {lot}.',
  query     => $$
    select lot.owner_id as user_id, new.id as booking_id, slot.label as slot, lot.name as lot
    from   new
    join   public.parking_slot slot on slot.id = new.slot_id
    join   public.parking_lot  lot  on lot.id = slot.lot_id
  $$);

-- 9. A car is clean: told to whoever booked the place it stands in.
select notifier.define_event(
  name      => 'carwash.completed',
  source    => 'public.carwash',
  operation => 'update',
  level     => 'success',
  message   => 'Your car wash ({service}) is completed.',
  query     => $$
    select booking.user_id, changed.id as carwash_id, changed.booking_id, changed.service
    from   changed
    join   public.booking on booking.id = changed.booking_id
    where  lower(changed.status) = 'completed' and lower((changed.was).status) is distinct from 'completed'
  $$);

-- 10. An employee was assigned to a lot: told to its owner.
select notifier.define_event(
  name      => 'employee.assigned',
  source    => 'public.employee_assignment',
  operation => 'insert',
  level     => 'info',
  message   => '{employee} was assigned to {lot}.',
  query     => $$
    select lot.owner_id as user_id, new.id as assignment_id, employee.name as employee, lot.name as lot
    from   new
    join   public.employee         on employee.id = new.employee_id
    join   public.parking_lot  lot on lot.id = new.lot_id
  $$);
