-- What the buttons of the demo run: for each event the SQL that a parking application would run to bring it about.
-- Form: a line `-- action: event | title | who is told | level | timed or at once`; then, after `-- before`, what puts the rows
-- back so that the button works again (not shown); then, after `-- run`, the SQL itself.

-- action: booking.expiring | A booking is about to expire | driver | warning | timed
-- run
insert into public.booking (user_id, slot_id, end_time)
values (7, 11, now() + interval '5 minutes 15 seconds');

-- action: booking.expired | A booking expires | driver | info | timed
-- run
insert into public.booking (user_id, slot_id, end_time)
values (7, 12, now() + interval '30 seconds');

-- action: booking.renewed | A renewal is paid | driver | success | at once
-- before
update public.payment set status = 'pending' where id = 202;
-- run
update public.payment
set status = 'success'
where id = 202;

-- action: booking.renewal_failed | A renewal fails | driver | error | at once
-- before
update public.payment set status = 'pending' where id = 203;
-- run
update public.payment
set status = 'failed'
where id = 203;

-- action: booking.completed | A car leaves too late | driver | warning | at once
-- before
update public.booking set status = 'checked_in' where id = 102;
-- run
update public.booking
set status = 'completed'
where id = 102;

-- action: booking.declined | The admin cancels a booking | driver | warning | at once
-- before
update public.booking set status = 'booked' where id = 103;
-- run
update public.booking
set status = 'cancelled_by_admin'
where id = 103;

-- action: payment.verified | Cash is counted | driver | success | at once
-- before
update public.payment set status = 'pending' where id = 201;
-- run
update public.payment
set status = 'verified'
where id = 201;

-- action: booking.created | Somebody books a slot | owner | info | at once
-- run
insert into public.booking (user_id, slot_id, start_time, end_time)
values (7, 13, now() + interval '1 day', now() + interval '26 hours');

-- action: carwash.completed | The car is clean | driver | success | at once
-- before
update public.carwash set status = 'in_progress' where id = 301;
-- run
update public.carwash
set status = 'completed'
where id = 301;

-- action: employee.assigned | An employee is assigned | owner | info | at once
-- run
insert into public.employee_assignment (employee_id, lot_id)
values (401, 1);
