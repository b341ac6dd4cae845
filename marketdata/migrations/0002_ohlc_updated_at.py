"""When a candle last changed: the roll-up's mark of what is new."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("marketdata", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="ohlc",
            name="updated_at",
            field=models.DateTimeField(
                db_column="u", help_text="Our clock when this candle last changed: the roll-up reads what is newer", null=True
            ),
        ),
        migrations.AddIndex(
            model_name="ohlc",
            index=models.Index(fields=["interval", "updated_at"], name="ohlc_interval_updated"),
        ),
    ]
